"""Process control for the supervisor: start processes that die with their parent, find and end them.

A service is started in its own session, so `stop` reaches its children too. All processes of a stack have a
tag in their environment, by which leftovers of a killed supervisor are found. psutil lists processes. A pid
is always compared with the process's start time in ticks since boot, because psutil's start time depends on a
clock that may be set.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

TAG = "GAINSHARE_STACK"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ProcessId:
    """A pid with the clock tick of its start, which together identify a process."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Identity of a running process, or None; a zombie does not count."""
        try:
            # Fields from the state on; the name before it may contain anything.
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else cls(pid, int(fields[19]))

    def is_alive(self) -> bool:
        return ProcessId.of(self.pid) == self


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: IO[bytes] | int,
    cwd: Path | None = None,
    user: int | None = None,
    group: int | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start `argv` in its own session; it gets `death_signal` when the calling *thread* ends.

    `user` and `group` are numeric ids to change to (root only). Output and errors go to `log`.
    """
    return subprocess.Popen(
        list(argv),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Runs after the change of user, which would clear the death signal.
        preexec_fn=_die_with_parent(death_signal, os.getpid()),
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )


def stop(process: subprocess.Popen[bytes], *, first: signal.Signals | None, grace_s: float) -> None:
    """Send `first` to the leader, wait up to `grace_s` seconds, then kill the rest of its session.

    Without `first` the signal was already sent.
    """
    if process.poll() is None:
        if first is not None:
            process.send_signal(first)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    kill_all(lambda: session_members(process.pid))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def kill_all(find: Callable[[], list[int]]) -> list[int]:
    """Send SIGKILL to the pids from `find` until it finds none (at most 5 s). Returns all pids found."""
    deadline = time.monotonic() + 5
    killed: list[int] = []
    while (pids := find()) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in pids if pid not in killed]
        time.sleep(0.02)
    return killed


def session_members(session: int) -> list[int]:
    """Pids of all processes, zombies excepted, whose session id is `session`."""
    return _living(lambda process: os.getsid(process.pid) == session)


def tagged(prefix: str) -> list[int]:
    """Pids of all processes, zombies excepted, whose tag starts with `prefix` and whose environment we may read."""
    return _living(lambda process: process.environ().get(TAG, "").startswith(prefix))


def working_in(folder: Path) -> list[int]:
    """Pids of all processes, zombies excepted, whose working directory is `folder` and may be read."""
    return _living(lambda process: process.cwd() == str(folder))


def _living(is_wanted: Callable[[psutil.Process], bool]) -> list[int]:
    """Pids of processes that match; ended and unreadable processes are left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) and is_wanted(process):
                found.append(process.pid)
    return found


def _die_with_parent(death_signal: signal.Signals, parent: int) -> Callable[[], None]:
    def in_child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call above
            os._exit(1)

    return in_child
