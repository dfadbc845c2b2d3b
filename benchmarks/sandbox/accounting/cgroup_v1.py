"""A sandbox's processes in cgroups of version 1: one folder of the same name in each controller's hierarchy.

Kernel documentation: Documentation/admin-guide/cgroup-v1.
"""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.sandbox.accounting.cgroup_folders import read_key, remove_folder
from benchmarks.sandbox.accounting.groups import Exhausted
from benchmarks.sandbox.levels import Limits, Unsteerable

REQUIRED = ("memory", "pids", "freezer", "cpuacct")
FREEZE_TIMEOUT_S = 5.0


class CgroupV1:
    """See `ProcessGroup`. `parents` are our own folders per controller; cpuset is used where it is there."""

    kind = "cgroup-v1"

    def __init__(self, name: str, parents: dict[str, Path], limits: Limits, overhead_pids: int) -> None:
        wanted = {*REQUIRED, *({"cpuset"} if limits.cores and "cpuset" in parents else ())}
        self._folders = {controller: parents[controller] / name for controller in sorted(wanted)}
        self._last: tuple[int, int, Exhausted | None] | None = None
        try:
            for folder in set(self._folders.values()):
                folder.mkdir()
            self._configure(limits, overhead_pids)
        except OSError:
            self._remove_folders()
            raise

    def _configure(self, limits: Limits, overhead_pids: int) -> None:
        memory = self._folders["memory"]
        (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
        with suppress(OSError):  # absent where swap is not accounted
            (memory / "memory.memsw.limit_in_bytes").write_text(str(limits.memory_bytes))
        (self._folders["pids"] / "pids.max").write_text(str(limits.pids + overhead_pids))
        if cpuset := self._folders.get("cpuset"):
            (cpuset / "cpuset.mems").write_text((cpuset.parent / "cpuset.mems").read_text())
            (cpuset / "cpuset.cpus").write_text(",".join(map(str, limits.cores or ())))

    def add(self, pid: int) -> None:
        for folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        try:
            return [int(line) for line in (self._folders["pids"] / "cgroup.procs").read_text().split()]
        except OSError:  # removed, or being removed: FileNotFoundError or ENODEV
            return []

    def freeze(self) -> None:
        state = self._folders["freezer"] / "freezer.state"
        state.write_text("FROZEN")
        deadline = time.monotonic() + FREEZE_TIMEOUT_S
        while state.read_text().strip() != "FROZEN":
            if time.monotonic() > deadline:
                raise Unsteerable(f"its processes could not be frozen within {FREEZE_TIMEOUT_S:.0f} s")
            state.write_text("FROZEN")  # a fork may have slipped through; writing again retries

    def thaw(self) -> None:
        with suppress(FileNotFoundError):
            (self._folders["freezer"] / "freezer.state").write_text("THAWED")

    def _figures(self) -> tuple[int, int, Exhausted | None]:
        if self._last is not None:
            return self._last
        memory = self._folders["memory"]
        exhausted: Exhausted | None = None
        if read_key(memory / "memory.oom_control", "oom_kill") > 0:
            exhausted = "memory"
        elif read_key(self._folders["pids"] / "pids.events", "max") > 0:
            exhausted = "pids"
        peak = int((memory / "memory.max_usage_in_bytes").read_text())
        return int((self._folders["cpuacct"] / "cpuacct.usage").read_text()), peak, exhausted

    def cpu_ns(self) -> int:
        if self._last is not None:
            return self._last[0]
        return int((self._folders["cpuacct"] / "cpuacct.usage").read_text())

    def peak_memory_bytes(self) -> int:
        return self._figures()[1]

    def exhausted(self) -> Exhausted | None:
        return self._figures()[2]

    def reaped(self, usage: resource.struct_rusage) -> None: ...

    def remove(self) -> None:
        if self._last is None:
            self._last = self._figures()
            self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in set(self._folders.values()):
            remove_folder(folder)
