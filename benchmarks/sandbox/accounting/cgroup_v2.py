"""A sandbox's processes in one cgroup of version 2.

Kernel documentation: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.sandbox.accounting.cgroup_folders import read_key, remove_folder
from benchmarks.sandbox.accounting.groups import Exhausted
from benchmarks.sandbox.levels import Limits, Unsteerable

REQUIRED = frozenset({"memory", "pids"})
FREEZE_TIMEOUT_S = 5.0
POLL_S = 0.0002


class CgroupV2:
    """See `ProcessGroup`. `parent` must hand the memory and pids controllers down to its children."""

    kind = "cgroup-v2"

    def __init__(self, name: str, parent: Path, limits: Limits, overhead_pids: int) -> None:
        self._folder = parent / name
        self._peak = 0
        self._last: tuple[int, int, Exhausted | None] | None = None
        self._folder.mkdir()
        try:
            self._configure(limits, overhead_pids)
        except OSError:
            remove_folder(self._folder)
            raise

    def _configure(self, limits: Limits, overhead_pids: int) -> None:
        (self._folder / "memory.max").write_text(str(limits.memory_bytes))
        with suppress(OSError):  # absent without swap
            (self._folder / "memory.swap.max").write_text("0")
        with suppress(OSError):  # Linux 4.19+: out of memory ends the sandbox whole, not one process of it
            (self._folder / "memory.oom.group").write_text("1")
        (self._folder / "pids.max").write_text(str(limits.pids + overhead_pids))
        cpus = self._folder / "cpuset.cpus"
        if limits.cores and cpus.exists():
            cpus.write_text(",".join(map(str, limits.cores)))

    def add(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        try:
            return [int(line) for line in (self._folder / "cgroup.procs").read_text().split()]
        except OSError:  # removed, or being removed: FileNotFoundError or ENODEV
            return []

    def freeze(self) -> None:
        (self._folder / "cgroup.freeze").write_text("1")
        deadline = time.monotonic() + FREEZE_TIMEOUT_S
        while read_key(self._folder / "cgroup.events", "frozen") != 1:
            if time.monotonic() > deadline:
                raise Unsteerable(f"its processes could not be frozen within {FREEZE_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)

    def thaw(self) -> None:
        with suppress(FileNotFoundError):
            (self._folder / "cgroup.freeze").write_text("0")

    def cpu_ns(self) -> int:
        if self._last is not None:
            return self._last[0]
        return read_key(self._folder / "cpu.stat", "usage_usec") * 1000

    @property
    def has_peak_counter(self) -> bool:
        """Whether the kernel keeps the peak; before `remove`."""
        return (self._folder / "memory.peak").exists()

    def peak_memory_bytes(self) -> int:
        if self._last is not None:
            return self._last[1]
        try:
            peak = int((self._folder / "memory.peak").read_text())  # Linux 5.19+
        except FileNotFoundError:
            peak = int((self._folder / "memory.current").read_text())  # the highest reading so far
        self._peak = max(self._peak, peak)
        return self._peak

    def exhausted(self) -> Exhausted | None:
        if self._last is not None:
            return self._last[2]
        if read_key(self._folder / "memory.events", "oom_kill") > 0:
            return "memory"
        return "pids" if read_key(self._folder / "pids.events", "max") > 0 else None

    def reaped(self, usage: resource.struct_rusage) -> None: ...

    def remove(self) -> None:
        if self._last is None:
            self._last = (self.cpu_ns(), self.peak_memory_bytes(), self.exhausted())
            remove_folder(self._folder)
