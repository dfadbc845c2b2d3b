"""Steers one running sandbox: talk through pipes, freeze, thaw, count, kill.

A `Sample` belongs to one judge thread at a time; `kill` may come from any. The judge owns the clock: nothing here
measures time for a verdict.
"""

from __future__ import annotations

import shutil
import signal
import socket as sockets
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from benchmarks.sandbox.accounting.groups import ProcessGroup
from benchmarks.sandbox.accounting.processes import is_running, send, start_ticks
from benchmarks.sandbox.accounting.reaping import Reaper
from benchmarks.sandbox.accounting.time_watch import TimeWatch
from benchmarks.sandbox.levels import Limits, Unsteerable
from benchmarks.sandbox.living import register, unregister
from benchmarks.sandbox.log_capture import LogCapture

EXIT_TIMEOUT_S = 10.0

LimitHit = Literal["memory", "pids", "wall", "cpu", "idle"]


class Sample:
    """One running sandbox. `stdin` and `stdout` are raw, unbuffered binary pipes; `pid` is its outermost process.

    `socket` is our end of the one that was asked for, to send through only, see `spawn`.

    Use as a context manager, or `close` it: what it ran, its cgroups and its pipes are gone afterwards.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        group: ProcessGroup,
        log: LogCapture,
        limits: Limits,
        socket: sockets.socket | None = None,
        leftovers: Sequence[Path] = (),
    ) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.socket = socket
        self._leftovers = leftovers  # folders that the running sandbox needs
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self.pid = process.pid
        self._reaper = Reaper(process, group.reaped)
        self._group = group
        self._log = log
        self._lock = threading.RLock()
        self._killed: int | None = None
        self._time_hit: LimitHit | None = None
        self._timer = threading.Timer(limits.wall_s, self._end_at, ["wall"])
        self._timer.daemon = True
        self._timer.start()
        self._time_watch = TimeWatch(self, limits, self._end_at)
        register(self)

    @property
    def accounting(self) -> str:
        """Mechanism that limits and freezes this sandbox: "cgroup-v1", "cgroup-v2" or "polled"."""
        return self._group.kind

    @property
    def returncode(self) -> int | None:
        """Exit status; None while running. 128 + n when signal n ended the command, as bubblewrap reports it."""
        return self._reaper.poll()

    def pids(self) -> list[int]:
        """Live processes of the whole tree, as the host numbers them."""
        return self._group.pids()

    def freeze(self) -> None:
        """Returns once no process of the tree can run. Raises Unsteerable when that cannot be had."""
        with self._lock:
            if self._killed is None:
                self._group.freeze()

    def thaw(self) -> None:
        with self._lock:
            if self._killed is None:
                self._group.thaw()

    def cpu_ns(self) -> int:
        """User and system time of the whole tree so far, ended processes included, in nanoseconds."""
        with self._lock:
            return self._group.cpu_ns()

    def peak_memory_bytes(self) -> int:
        """Highest total so far. By cgroup this counts page cache that the tree was first to read, too.

        Where it is polled: the highest total that was seen, or the most that one process had, whichever is more.
        """
        with self._lock:
            return self._group.peak_memory_bytes()

    def limit_hit(self) -> LimitHit | None:
        """The limit that this sandbox ran into, if it did: see `Limits`."""
        with self._lock:
            return self._time_hit or self._group.exhausted()

    def log(self) -> bytes:
        """Kept part of stderr so far: its beginning and its end, as bytes that may hold anything."""
        return self._log.kept()

    def take_log(self) -> str:
        """Lines written to stderr since this was asked last, safe to print; call it while the sample runs, too.

        All answers together are at most `Limits.log_bytes` and a mark: the beginning as it is written, the end of a
        long log once the sample has ended, however it did. Call it again after `close`.
        """
        return self._log.take()

    def wait(self, timeout_s: float) -> int:
        """The return code, once the outermost process ended. Raises subprocess.TimeoutExpired."""
        return self._reaper.wait(timeout_s)

    def kill(self) -> int:
        """Ends the whole tree and waits until it is gone. Returns how many processes were killed; 0 when repeated.

        Raises Unsteerable.
        """
        with self._lock:
            if self._killed is not None:
                return 0
            self._killed = self._end_tree()
            unregister(self)
            return self._killed

    def _end_tree(self) -> int:
        """Kills everything inside first, so that bubblewrap's monitor reaps it, then the monitor.

        A cgroup forgets a process while it is still exiting, so each is waited for by its own number.
        """
        self._timer.cancel()
        self._time_watch.stop()
        self._group.cpu_ns()  # a last look: what is killed with the init of its namespace, no one reaps
        killed: dict[int, int | None] = {}  # pid -> start time, which tells a reused number apart
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        patience = time.monotonic() + 1.0
        while True:
            living = set(self._group.pids())
            if self._reaper.poll() is None:
                living.add(self.pid)
            exiting = [pid for pid, ticks in killed.items() if ticks is not None and is_running(pid, ticks)]
            if not living and not exiting:
                break
            now = time.monotonic()
            if now > deadline:
                count = len({*living, *exiting})
                raise Unsteerable(
                    f"{count} of its processes could not be ended within {EXIT_TIMEOUT_S:.0f} s"
                )
            inside = living - {self.pid}
            for pid in inside if inside and now < patience else living:
                killed.setdefault(pid, start_ticks(pid))
                send(pid, signal.SIGKILL)
            self._group.thaw()
            time.sleep(0.001)
        self._group.remove()
        for folder in self._leftovers:
            shutil.rmtree(folder, ignore_errors=True)
        return len(killed)

    def _end_at(self, limit: LimitHit) -> None:
        """End it at a limit of time, unless it has ended by itself."""
        if self._reaper.poll() is None:
            self._time_hit = self._time_hit or limit
            self.kill()

    def close(self) -> None:
        """Kills what is left and lets go of pipes and log. Idempotent."""
        self.kill()
        for pipe in (self.stdin, self.stdout):
            with suppress(BrokenPipeError):
                pipe.close()
        if self.socket is not None:
            self.socket.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
