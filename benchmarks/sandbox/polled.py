"""A sandbox's processes where no cgroup may be made: memory and counts are polled, freezing is SIGSTOP.

Weaker than a cgroup in one way that is stated: between two polls a sandbox can go over its limit.
"""

from __future__ import annotations

import signal
import threading
import time

from benchmarks.sandbox.groups import Exhausted
from benchmarks.sandbox.levels import Limits, SandboxError
from benchmarks.sandbox.processes import cpu_clock_ns, is_stopped, memory_bytes, send, thread_count, tree

POLL_S = 0.05
#: Once half of the memory is used.
CLOSE_POLL_S = 0.005
FREEZE_TIMEOUT_S = 5.0


class PolledGroup:
    """See `ProcessGroup`. One thread watches the tree below the first process added."""

    kind = "polled"

    def __init__(self, limits: Limits, overhead_pids: int) -> None:
        self._limits = limits
        self._overhead_pids = overhead_pids
        self._root: int | None = None
        self._peak = 0
        self._exhausted: Exhausted | None = None
        self._cpu_ns = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="sandbox-poll", daemon=True)

    def add(self, pid: int) -> None:
        assert self._root is None, "a polled group follows one tree"
        self._root = pid
        self._watcher.start()

    def pids(self) -> list[int]:
        if self._root is None or self._done.is_set():
            return []
        return [stat.pid for stat in tree(self._root) if stat.is_alive]

    def _watch(self) -> None:
        used = 0
        while not self._done.wait(CLOSE_POLL_S if used > self._limits.memory_bytes // 2 else POLL_S):
            pids = self.pids()
            used = sum(memory_bytes(pid) for pid in pids)
            self._peak = max(self._peak, used)
            if used > self._limits.memory_bytes:
                self._exhausted = self._exhausted or "memory"
            elif sum(thread_count(pid) for pid in pids) > self._limits.pids + self._overhead_pids:
                self._exhausted = self._exhausted or "pids"
            if self._exhausted:
                for pid in reversed(pids):  # children first, so that bubblewrap still reaps what it can
                    send(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stops every thread, again until a whole pass finds nothing running: what is stopped cannot fork."""
        assert self._root is not None
        deadline = time.monotonic() + FREEZE_TIMEOUT_S
        while True:
            running = [stat for stat in tree(self._root) if stat.is_alive and not is_stopped(stat.pid)]
            if not running:
                return
            if time.monotonic() > deadline:
                raise SandboxError(f"the sandbox could not be frozen within {FREEZE_TIMEOUT_S} s")
            for stat in running:
                send(stat.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in reversed(self.pids()):
            send(pid, signal.SIGCONT)

    def cpu_ns(self) -> int:
        """Live processes by their clocks, ended ones by what their parents have reaped (in steps of a tick)."""
        if self._root is not None and not self._done.is_set():
            now = sum(cpu_clock_ns(stat.pid) + stat.reaped_ns for stat in tree(self._root))
            self._cpu_ns = max(self._cpu_ns, now)
        return self._cpu_ns

    def peak_memory_bytes(self) -> int:
        if not self._done.is_set():
            self._peak = max(self._peak, sum(memory_bytes(pid) for pid in self.pids()))
        return self._peak

    def exhausted(self) -> Exhausted | None:
        return self._exhausted

    def remove(self) -> None:
        self._done.set()
        if self._watcher.is_alive():
            self._watcher.join()
