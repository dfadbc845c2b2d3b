"""Processes as the supervisor sees them: start so that none outlives its parent, find again, end as a whole.

A service is started in a session of its own, so `stop` reaches its pool children too. Everything that belongs to one
stack also carries a tag in its environment, by which leftovers of a killed supervisor are found. psutil lists what
runs. A pid alone is never trusted: it is compared with the start time that Linux keeps for it, in ticks since boot;
psutil's is in seconds of a clock that may be set meanwhile.
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
    """A pid with the clock tick at which it started: together they name one process for good."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The identity of a process that runs now (a zombie does not), else None."""
        try:
            # Fields from the state on; the name before it may hold anything.
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
    """Start `argv` in a session of its own; it gets `death_signal` when the calling *thread* ends.

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
    """Ask the leader with `first`, wait up to `grace_s` seconds, then kill whatever is left of its session.

    Without `first` it was asked already.
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
    """SIGKILL what `find` finds, again until it finds nothing (at most 5 s). Returns all pids that it found."""
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
    """Pids of wanted processes; one that has ended, or that may not be read, is not wanted."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) and is_wanted(process):
                found.append(process.pid)
    return found


def _die_with_parent(death_signal: signal.Signals, parent: int) -> Callable[[], None]:
    def in_child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above could tell
            os._exit(1)

    return in_child
