"""New folders: whole or not at all, also when their writer is killed, with several writers, and when replacing."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from model.new_folder import FolderTakenError, has_format, new_folder

WRITER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from model.new_folder import new_folder

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


def is_ours(folder: Path) -> bool:
    return names(folder) in (["old"], ["new"])


def test_an_existing_folder_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "data"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(FolderTakenError, match="is not empty: choose another folder, or empty it first"):
        with new_folder(target):
            raise AssertionError("the block must not run")
    with pytest.raises(ZeroDivisionError), new_folder(target, is_ours=is_ours):
        raise ZeroDivisionError
    assert names(target) == ["old"]
    with new_folder(target, is_ours=is_ours) as partial:
        (partial / "new").write_text("new")
        assert names(target) == ["old"]
    assert names(target) == ["new"] and names(tmp_path) == ["data"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "data"
    target.mkdir()
    with new_folder(target, is_ours=is_ours) as partial:  # empty: nothing is lost
        (partial / "new").write_text("new")
    (target / "precious").write_text("mine")
    with pytest.raises(FolderTakenError, match=r"other content than a model, .* choose another folder"):
        with new_folder(target, is_ours=is_ours, name="model"):
            raise AssertionError("the block must not run")
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(FolderTakenError, match="is a file"), new_folder(file, is_ours=is_ours):
        raise AssertionError("the block must not run")
    assert names(target) == ["new", "precious"] and names(tmp_path) == ["data", "file"]


def test_what_came_into_the_folder_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with pytest.raises(FolderTakenError, match="other content"), new_folder(target, is_ours=is_ours):
        target.mkdir()
        (target / "precious").write_text("mine")
    assert names(target) == ["precious"] and names(tmp_path) == ["data"]


@pytest.mark.parametrize("target", [".", "..", "../../deep"])
def test_the_current_folder_and_those_around_it_are_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    here = tmp_path / "deep" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(FolderTakenError, match="contains the current folder"):
        with new_folder(Path(target), is_ours=lambda _folder: True):
            raise AssertionError("the block must not run")
    assert here.is_dir()


def test_a_link_stays_and_leads_to_the_new_folder(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    with new_folder(tmp_path / "link", is_ours=is_ours) as partial:
        (partial / "new").write_text("new")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "far") == ["new"]
    assert names(tmp_path) == ["far", "link"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"format": "gainshare.model/1"}', True),
        ('{"format": "gainshare.model/9"}', True),
        ('{"format": "gainshare.modelling/1"}', False),
        ('{"model_type": "llama"}', False),
        ("[1]", False),
        ("{", False),
        ("\udcff", False),
    ],
)
def test_our_documents_are_known_by_their_format(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert has_format(file, "gainshare.model") is expected
    assert not has_format(tmp_path / "none", "gainshare.model")
