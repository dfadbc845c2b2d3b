"""Processes: identity beyond the pid, death with the parent, whole sessions ended, leftovers found by tag."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gainshare.local.supervision import guardian, processes
from gainshare.local.supervision.processes import TAG, ProcessId
from tests.benchmarks.sandbox.ordinary_user import as_user

pytestmark = pytest.mark.slow

SLEEPER = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def eventually(holds: Callable[[], bool], *, within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


def start(code: str, tmp_path: Path, **env: str) -> "subprocess.Popen[bytes]":
    with (tmp_path / "log").open("ab") as log:
        return processes.start([sys.executable, "-c", code], env={"PATH": os.defpath, **env}, log=log)


def test_identity_tells_a_process_from_a_later_one_of_the_same_pid(tmp_path: Path) -> None:
    process = start(SLEEPER, tmp_path)
    identity = ProcessId.of(process.pid)
    assert identity is not None
    assert identity.is_alive()
    assert not ProcessId(process.pid, identity.started_ticks + 1).is_alive()
    processes.stop(process, first=signal.SIGTERM, grace_s=5)
    assert not identity.is_alive()
    assert ProcessId.of(process.pid) is None


def test_stop_asks_first_and_kills_what_does_not_listen(tmp_path: Path) -> None:
    process = start(STUBBORN, tmp_path)
    assert eventually(lambda: b"up" in (tmp_path / "log").read_bytes())
    began = time.monotonic()
    processes.stop(process, first=signal.SIGTERM, grace_s=0.5)
    assert process.returncode == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - began < 5


def test_stop_ends_children_in_other_process_groups_of_the_session(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], preexec_fn=os.setpgrp)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = start(code, tmp_path)
    assert eventually(lambda: (tmp_path / "log").read_bytes().endswith(b"\n"))
    child = ProcessId.of(int((tmp_path / "log").read_text()))
    assert child is not None
    assert os.getpgid(child.pid) == child.pid
    processes.stop(process, first=signal.SIGKILL, grace_s=5)
    assert not child.is_alive()
    assert processes.session_members(process.pid) == []


def test_a_child_dies_with_its_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from gainshare.local.supervision import processes\n"
        f"child = processes.start([sys.executable, '-c', {SLEEPER!r}], env={{}}, log=1)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = ProcessId.of(int(parent.stdout.readline()))
    assert child is not None
    parent.kill()
    parent.wait()
    assert eventually(lambda: not child.is_alive())


def test_tag_finds_a_process_and_its_children_and_nothing_else(tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"
    tag = f"test{os.getpid()}.one"
    process = start(code, tmp_path, **{TAG: tag})
    other = start(SLEEPER, tmp_path, **{TAG: f"test{os.getpid()}.two"})
    try:
        assert eventually(lambda: len(processes.tagged(tag)) == 2)
        assert process.pid in processes.tagged(tag)
        assert other.pid not in processes.tagged(tag)
        assert len(processes.tagged(f"test{os.getpid()}.")) == 3
    finally:
        killed = processes.kill_all(lambda: processes.tagged(f"test{os.getpid()}."))
        process.wait()
        other.wait()
    assert len(killed) == 3


def test_an_ordinary_user_starts_no_process_of_roots() -> None:
    ended = as_user(
        """
        import subprocess, sys
        from gainshare.local.supervision import processes
        processes.start([sys.executable, "-V"], env={}, log=subprocess.DEVNULL, user=0, group=0)
        """
    )
    assert ended.returncode == 1
    assert f"PermissionError: [Errno {errno.EPERM}]" in ended.stderr, ended.stderr


def test_guardian_kills_tagged_processes_once_its_pipe_breaks(tmp_path: Path) -> None:
    tag = f"guarded{os.getpid()}.x"
    process = start(STUBBORN, tmp_path, **{TAG: tag})
    watcher = guardian.start_guardian(tag, grace_s=0.3)
    assert watcher.stdin is not None
    time.sleep(0.5)
    assert process.poll() is None  # nothing happens while the pipe is open
    watcher.stdin.close()
    assert process.wait(10) == -signal.SIGKILL
    assert watcher.wait(10) == 0


def test_guardian_leaves_everything_alone_after_an_orderly_end(tmp_path: Path) -> None:
    tag = f"guarded{os.getpid()}.y"
    process = start(SLEEPER, tmp_path, **{TAG: tag})
    watcher = guardian.start_guardian(tag, grace_s=0)
    guardian.dismiss(watcher)
    assert watcher.returncode == 0
    assert process.poll() is None
    processes.stop(process, first=signal.SIGTERM, grace_s=5)


def test_dismissing_a_guardian_that_was_killed_is_no_error() -> None:
    watcher = guardian.start_guardian("nobody.z")
    watcher.kill()
    watcher.wait()
    guardian.dismiss(watcher)
    assert watcher.returncode == -signal.SIGKILL
