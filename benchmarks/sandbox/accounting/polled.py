"""A sandbox's processes where no cgroup may be made: memory and counts are polled, freezing is SIGSTOP.

Weaker than a cgroup in what happens between two polls: a sandbox can go over its limit, and what a process that no
poll saw has used is counted only if it was reaped. Evidence says so (docs/reference/evidence.md).
"""

from __future__ import annotations

import resource
import signal
import threading
import time

from benchmarks.sandbox.accounting.groups import Exhausted
from benchmarks.sandbox.accounting.processes import is_stopped, send, thread_count, tree
from benchmarks.sandbox.accounting.tree_usage import TreeUsage
from benchmarks.sandbox.levels import Limits, Unsteerable

POLL_S = 0.05
#: How long the pauses are at first, as a share of the group's age: what ends soon is seen before it does.
EARLY_POLL_SHARE = 0.2
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
        self._usage: TreeUsage | None = None
        self._is_reaped = False
        self._exhausted: Exhausted | None = None
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="sandbox-poll", daemon=True)

    def add(self, pid: int) -> None:
        assert self._root is None, "a polled group follows one tree"
        self._root, self._usage = pid, TreeUsage(pid)
        self._watcher.start()

    def pids(self) -> list[int]:
        if self._root is None or self._is_reaped or self._done.is_set():
            return []
        return [stat.pid for stat in tree(self._root) if stat.is_alive]

    def _watch(self) -> None:
        assert self._usage is not None
        began, used = time.monotonic(), 0
        while not self._done.wait(self._pause_s(time.monotonic() - began, used)):
            look = self._usage.look()
            used = look.memory_bytes
            if used > self._limits.memory_bytes:
                self._exhausted = self._exhausted or "memory"
            elif sum(thread_count(pid) for pid in look.pids) > self._limits.pids + self._overhead_pids:
                self._exhausted = self._exhausted or "pids"
            if self._exhausted:
                for pid in reversed(look.pids):  # children first, so that bubblewrap still reaps what it can
                    send(pid, signal.SIGKILL)

    def _pause_s(self, age_s: float, used_bytes: int) -> float:
        if used_bytes > self._limits.memory_bytes // 2:
            return CLOSE_POLL_S
        return min(POLL_S, max(CLOSE_POLL_S, EARLY_POLL_SHARE * age_s))

    def freeze(self) -> None:
        """Stops every thread, again until a whole pass finds nothing running: what is stopped cannot fork."""
        assert self._root is not None
        deadline = time.monotonic() + FREEZE_TIMEOUT_S
        while True:
            running = [stat for stat in tree(self._root) if stat.is_alive and not is_stopped(stat.pid)]
            if not running:
                return
            if time.monotonic() > deadline:
                raise Unsteerable(f"its processes could not be frozen within {FREEZE_TIMEOUT_S:.0f} s")
            for stat in running:
                send(stat.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in reversed(self.pids()):
            send(pid, signal.SIGCONT)

    def cpu_ns(self) -> int:
        usage = self._looked_at()
        return 0 if usage is None else usage.cpu_ns

    def peak_memory_bytes(self) -> int:
        usage = self._looked_at()
        return 0 if usage is None else usage.peak_bytes

    def _looked_at(self) -> TreeUsage | None:
        if self._usage is not None and not self._done.is_set():
            self._usage.look()
        return self._usage

    def reaped(self, usage: resource.struct_rusage) -> None:
        self._is_reaped = True
        if self._usage is not None:
            self._usage.reaped(usage)

    def exhausted(self) -> Exhausted | None:
        return self._exhausted

    def remove(self) -> None:
        self._done.set()
        if self._watcher.is_alive():
            self._watcher.join()
