"""Processes as the supervisor sees them: start so that none outlives its parent, find again, end as a whole.

A service is started in a session of its own, so `kill_session` reaches its pool children too, whatever process
groups they make. A pid alone is never trusted: it is compared with the start time that Linux keeps for it.
Knows nothing of what the services do.
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

PR_SET_PDEATHSIG = 1
_PROC = Path("/proc")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ProcessId:
    """A pid with the clock tick at which it started: together they name one process for good."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The identity of a process that runs now (a zombie does not), else None."""
        fields = _stat_fields(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

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


def session_members(session: int) -> list[int]:
    """Pids of all processes, zombies excepted, whose session id is `session`."""
    members = []
    for entry in _PROC.iterdir():
        fields = _stat_fields(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and fields[0] not in "ZX" and int(fields[3]) == session:
            members.append(int(entry.name))
    return members


def kill_session(session: int) -> None:
    """SIGKILL everything in a session, again and again until nothing is left of it (at most 5 s)."""
    deadline = time.monotonic() + 5
    while (members := session_members(session)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes], *, first: signal.Signals, grace_s: float) -> None:
    """Ask the leader with `first`, wait up to `grace_s` seconds, then kill whatever is left of its session."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(first)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    kill_session(process.pid)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (the name before it may hold anything), or None."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None


def _die_with_parent(death_signal: signal.Signals, parent: int) -> Callable[[], None]:
    def in_child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above could tell
            os._exit(1)

    return in_child
