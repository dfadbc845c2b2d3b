"""Groups that count, limit and freeze a sandbox's processes: one interface, three implementations."""

from __future__ import annotations

import resource
from typing import Literal, Protocol

Exhausted = Literal["memory", "pids"]

#: What evidence says of how CPU time and memory were counted, by the kind of group (docs/reference/evidence.md).
COUNTED_BY = {
    "cgroup-v1": {"cpu": "cgroup-v1", "memory": "cgroup-v1"},
    "cgroup-v2": {"cpu": "cgroup-v2", "memory": "cgroup-v2"},
    "polled": {"cpu": "clocks-and-rusage", "memory": "polls-and-high-water-marks"},
}
READINGS = "cgroup-v2-readings"  # of a cgroup without `memory.peak`: Linux before 5.19

#: How long after freezing CPU time may still be charged: the kernel calls a thread frozen or stopped a moment before it
#: has left its core, and what it ran since the last tick is charged only then, later where the host took the core away.
CHARGED_WITHIN_S = 0.05


class ProcessGroup(Protocol):
    """All processes of one sandbox. Made before the first of them runs; `remove` after the last is gone.

    `kind` names the mechanism: "cgroup-v1", "cgroup-v2" or "polled".
    """

    kind: str

    def add(self, pid: int) -> None:
        """Takes in a process that has not started its work; its children follow it."""

    def pids(self) -> list[int]:
        """Live processes, as the host numbers them."""

    def freeze(self) -> None:
        """Returns once nothing in the group runs its code. Raises Unsteerable when that cannot be had in time."""

    def thaw(self) -> None: ...

    def cpu_ns(self) -> int:
        """User and system time used so far, by processes that ended as well. Readable after `remove`."""

    def peak_memory_bytes(self) -> int:
        """Highest total so far. Readable after `remove`."""

    def exhausted(self) -> Exhausted | None:
        """Name of the limit that was reached, if one was. Readable after `remove`."""

    def reaped(self, usage: resource.struct_rusage) -> None:
        """The first process added has ended, and this is what `wait4` said of it. A cgroup knows better."""

    def remove(self) -> None:
        """Leaves nothing behind. Idempotent."""
