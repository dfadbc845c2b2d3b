"""CPU time and memory of a tree of processes where no cgroup counts it: from polls, and from its end.

A look sees what lives: each process's own clock, what its parent says it has reaped, what it has mapped and the most
it ever had. What `wait4` says of the tree's root once that has ended is exact for all that was reaped (getrusage(2)).
The larger figure counts.
"""

from __future__ import annotations

import resource
import threading
from dataclasses import dataclass

from benchmarks.sandbox.accounting.processes import ProcessStat, cpu_clock_ns, read_memory, tree

#: A child that is reaped, or handed to another parent, during a poll is missing in that poll and in no other.
LOOKS_AGAIN = 2
KIB = 1024


@dataclass(frozen=True)
class Look:
    """The live processes, and the memory that they have together now."""

    pids: tuple[int, ...]
    memory_bytes: int


class TreeUsage:
    """Counts what the processes below `root` use, `root` and those that have ended included.

    Made when `root` waits to do its work, by the process that started it. From any thread.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._cpu_ns = self._counted_ns = self._lost_ns = 0
        self._peak_bytes = 0
        # (pid, start) -> the most pages of files seen in it
        self._most_files: dict[tuple[int, int], int] = {}
        self._is_reaped = False
        # What executes a program keeps the peak of what it was before: ours, as `root` was a copy of this process.
        self._own_peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @property
    def cpu_ns(self) -> int:
        """User and system time so far. Never falls, and grows whenever a process that a look sees uses some."""
        return self._cpu_ns

    @property
    def peak_bytes(self) -> int:
        """The highest total of own memory seen, or the most that one process had, whichever is more."""
        return self._peak_bytes

    def look(self) -> Look:
        with self._lock:
            stats = [] if self._is_reaped else tree(self._root)
            if not stats:
                return Look((), 0)
            self._count_cpu(stats)
            living = [stat for stat in stats if stat.is_alive]
            used = sum(map(self._memory_bytes, living))
            self._peak_bytes = max(self._peak_bytes, used)
            return Look(tuple(stat.pid for stat in living), used)

    def _count_cpu(self, stats: list[ProcessStat]) -> None:
        """Count CPU time. A process that ends without being reaped (its parent ignores SIGCHLD) stays counted."""
        counted = _cpu_ns(stats)
        for _ in range(LOOKS_AGAIN):
            if counted >= self._counted_ns:
                break
            counted = max(counted, _cpu_ns(tree(self._root)))
        self._lost_ns += max(0, self._counted_ns - counted)
        self._counted_ns = counted
        self._cpu_ns = max(self._cpu_ns, counted + self._lost_ns)

    def _memory_bytes(self, stat: ProcessStat) -> int:
        """Memory of a process now. Its high-water mark, less its pages of files, covers the time between two polls."""
        memory = read_memory(stat.pid)
        process = (stat.pid, stat.start_ticks)
        files = self._most_files[process] = max(memory.files, self._most_files.get(process, 0))
        self._peak_bytes = max(self._peak_bytes, memory.high_water - files)
        return memory.own

    def reaped(self, usage: resource.struct_rusage) -> None:
        """`usage` is what `wait4` said of `root`: of itself and of all that was reaped below it."""
        with self._lock:
            self._is_reaped = True  # its number may be another process's from now on
            self._cpu_ns = max(self._cpu_ns, round((usage.ru_utime + usage.ru_stime) * 1e9))
            if usage.ru_maxrss > self._own_peak_kib:
                files = max(self._most_files.values(), default=0)
                self._peak_bytes = max(self._peak_bytes, usage.ru_maxrss * KIB - files)


def _cpu_ns(stats: list[ProcessStat]) -> int:
    """Live processes by their clocks, ended ones by what their parents have reaped (in steps of a tick)."""
    return sum(cpu_clock_ns(stat.pid) + stat.reaped_ns for stat in stats)
