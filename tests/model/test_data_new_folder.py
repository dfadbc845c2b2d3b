"""New folders: whole or not at all, also when their writer is killed, with several writers, and when replacing."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from model.data.errors import DataError
from model.data.new_folder import new_folder

WRITER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from model.data.new_folder import new_folder

    with new_folder(Path(sys.argv[1])) as partial:
        (partial / "half").write_text("written")
        print("writing", flush=True)
        time.sleep(60)
    """
)


def start_writer(target: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    return writer


def stop(writer: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    writer.send_signal(how)
    writer.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "data"
    with new_folder(target) as partial:
        (partial / "file").write_text("all of it")
        assert not target.exists()
    assert names(target) == ["file"] and names(target.parent) == ["data"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "data") as partial:
        (partial / "file").write_text("half of it")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_killed_writer_leaves_no_folder_and_its_leftovers_go_with_the_next(tmp_path: Path) -> None:
    target = tmp_path / "data"
    writer = start_writer(target)
    stop(writer)
    assert not target.exists() and len(names(tmp_path)) == 1
    with new_folder(target):
        assert len(names(tmp_path)) == 1  # its own
    assert names(tmp_path) == ["data"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "data"
    writer = start_writer(target)
    try:
        with new_folder(target) as partial:
            assert len(names(tmp_path)) == 2
            (partial / "file").write_text("mine")
        assert len(names(tmp_path)) == 2 and names(target) == ["file"]
    finally:
        stop(writer)


def test_an_existing_folder_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "data"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(DataError, match="exists already: choose another folder, or replace it"):
        with new_folder(target):
            raise AssertionError("the block must not run")
    with pytest.raises(ZeroDivisionError), new_folder(target, replace=True):
        raise ZeroDivisionError
    assert names(target) == ["old"]
    with new_folder(target, replace=True) as partial:
        (partial / "new").write_text("new")
        assert names(target) == ["old"]
    assert names(target) == ["new"] and names(tmp_path) == ["data"]
