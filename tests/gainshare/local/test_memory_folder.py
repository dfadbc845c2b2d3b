"""Temporary files of a session are in memory where there is room, and nothing of them is left, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from gainshare.local import memory_folder, throwaway
from gainshare.local.memory_folder import NEEDED_BYTES, make_memory_folder
from gainshare.local.supervision import processes

ROOT = Path(__file__).resolve().parents[3]
SHOWN = """
import multiprocessing.util, tempfile

def test_shown(tmp_path):
    multiprocessing.util.get_temp_dir()  # which it removes when the process ends
    print('here', tempfile.gettempdir(), tmp_path, sep='\\n')
"""


@pytest.fixture
def has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_folder, "NEEDED_BYTES", 1)


@pytest.mark.usefixtures("has_room")
def test_where_there_is_room_it_is_made_and_others_may_pass_through(open_folder: Path) -> None:
    folder = make_memory_folder(open_folder)
    assert folder is not None and folder.parent == open_folder
    assert folder.stat().st_mode & 0o777 == 0o711
    assert make_memory_folder(open_folder) != folder and folder.exists()  # of a session that lives


def test_without_room_the_disk_is_used(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = SimpleNamespace(available=2 * NEEDED_BYTES - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    assert make_memory_folder(open_folder) is None
    assert make_memory_folder(open_folder / "missing") is None
    assert list(open_folder.iterdir()) == []


@pytest.mark.usefixtures("has_room")
def test_where_no_program_may_run_the_disk_is_used(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(open_folder)
    flags = (*real[:8], real.f_flag | os.ST_NOEXEC, *real[9:])
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(flags))
    assert make_memory_folder(open_folder) is None


@pytest.mark.slow
@pytest.mark.usefixtures("has_room")
def test_a_killed_session_s_folder_and_its_database_are_removed_by_the_next(open_folder: Path) -> None:
    code = (
        "import os, sys, tempfile\nfrom pathlib import Path\nfrom gainshare.local import memory_folder, throwaway\n"
        "memory_folder.NEEDED_BYTES = 1\n"
        "tempfile.tempdir = str(memory_folder.make_memory_folder(Path(sys.argv[1])))\n"
        "p = throwaway.ThrowawayPostgres(); p.start(); print(p.folder, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(open_folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = Path(done.stdout.strip())
    assert left.name.startswith(throwaway.PREFIX) and left.parent.parent == open_folder
    assert processes.working_in(left / "data")
    made = make_memory_folder(open_folder)
    assert list(open_folder.iterdir()) == [made]
    assert processes.working_in(left / "data") == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["one process", "with workers"])
def test_a_session_s_files_are_in_it_and_are_gone_afterwards(workers: list[str], open_folder: Path) -> None:
    """Or where TMPDIR says."""
    test = open_folder / "test_shown.py"
    test.write_text(SHOWN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    options = ["-c", str(ROOT / "pyproject.toml"), "-q", "-rP", "-p", "no:cacheprovider", *workers]
    arguments = [sys.executable, "-m", "pytest", *options, str(test)]
    memory = memory_folder.SHARED_MEMORY if memory_folder.has_room(memory_folder.SHARED_MEMORY) else None
    for given in ({}, {"TMPDIR": str(open_folder)}):
        environment.pop("TMPDIR", None)
        done = subprocess.run(
            arguments, env=environment | given, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        lines = done.stdout.splitlines()
        place, own = (Path(line) for line in lines[lines.index("here") + 1 :][:2])
        assert own.is_relative_to(place)
        if given:
            assert place == open_folder
        elif memory is not None:
            assert place.parent == memory and not place.exists()
