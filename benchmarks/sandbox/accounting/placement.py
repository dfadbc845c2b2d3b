"""Chooses how this machine's sandboxes are counted and limited, and clears away what a killed judge left."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from benchmarks.sandbox.accounting import cgroup_v1, cgroup_v2
from benchmarks.sandbox.accounting.cgroup_folders import remove_folder
from benchmarks.sandbox.accounting.cgroup_paths import Hierarchies, read_hierarchies
from benchmarks.sandbox.accounting.cgroup_v1 import CgroupV1
from benchmarks.sandbox.accounting.cgroup_v2 import CgroupV2
from benchmarks.sandbox.accounting.groups import COUNTED_BY, READINGS, ProcessGroup
from benchmarks.sandbox.accounting.polled import PolledGroup
from benchmarks.sandbox.accounting.processes import send, start_ticks
from benchmarks.sandbox.levels import Limits, SandboxError

PREFIX = "gainshare-sandbox-"
_numbers = itertools.count()


def make_group(limits: Limits, overhead_pids: int) -> ProcessGroup:
    """An empty group with `limits`, by the strongest means that this process may use here."""
    hierarchies = usable_hierarchies()
    name = f"{PREFIX}{owner()}-{next(_numbers)}"
    if hierarchies.v1:
        return CgroupV1(name, hierarchies.v1, limits, overhead_pids)
    if hierarchies.v2 is not None:
        return CgroupV2(name, hierarchies.v2, limits, overhead_pids)
    return PolledGroup(limits, overhead_pids)


def accounting() -> str:
    """Mechanism that counts sandboxes here: "cgroup-v1", "cgroup-v2" or "polled"."""
    group = make_group(Limits(), 0)
    group.remove()
    return group.kind


def counted_by() -> dict[str, str]:
    """What evidence says of how CPU time and memory of sandboxes are counted here."""
    group = make_group(Limits(), 0)
    counted = dict(COUNTED_BY[group.kind])
    if isinstance(group, CgroupV2) and not group.has_peak_counter:
        counted["memory"] = READINGS
    group.remove()
    return counted


@cache
def usable_hierarchies() -> Hierarchies:
    """Hierarchies in which groups can be made: tried by making one, once per process. Removes leftovers on the way."""
    found = read_hierarchies()
    trial = f"{PREFIX}{owner()}-trial"
    if all(controller in found.v1 for controller in cgroup_v1.REQUIRED):
        sweep(set(found.v1.values()))
        with suppress(OSError, SandboxError):
            CgroupV1(trial, found.v1, Limits(), 0).remove()
            return Hierarchies(found.v1, None)
    for parent in _v2_parents(found.v2):
        sweep({parent})
        with suppress(OSError, SandboxError):
            CgroupV2(trial, parent, Limits(), 0).remove()
            return Hierarchies({}, parent)
    return Hierarchies({}, None)


def _v2_parents(own: Path | None) -> Iterator[Path]:
    """Our own cgroup where it has delegated controllers (or may yet), else the one above it.

    A cgroup that holds processes cannot hand controllers down (the "no internal processes" rule), so a worker that
    systemd started in a separate scope makes its sandboxes next to that scope.
    """
    if own is None:
        return
    for parent in (own, own.parent):
        control = parent / "cgroup.subtree_control"
        with suppress(OSError):
            missing = cgroup_v2.REQUIRED - set(control.read_text().split())
            if missing:
                control.write_text(" ".join(f"+{controller}" for controller in sorted(missing)))
            yield parent


def sweep(parents: set[Path]) -> int:
    """Removes groups of judges that are no longer alive, killing what still runs in them. Returns how many folders.

    The cgroups next to each parent are searched as well: a worker that was restarted may be in another one.
    What is frozen dies only when it is thawed, and in version 1 that happens in another folder than the limits: so
    everything is killed and thawed before anything is removed.
    """
    found = {
        folder
        for parent in parents
        for folder in (*parent.glob(f"{PREFIX}*"), *parent.parent.glob(f"*/{PREFIX}*"))
        if folder.is_dir()
    }
    return _clear([folder for folder in found if is_abandoned(folder.name.removeprefix(PREFIX))])


def clear_own_groups() -> int:
    """Removes all groups of this process, killing what still runs in them. Returns how many folders."""
    if not usable_hierarchies.cache_info().currsize:
        return 0  # it has made none
    hierarchies = usable_hierarchies()
    parents = {*hierarchies.v1.values(), *([hierarchies.v2] if hierarchies.v2 else [])}
    return _clear([folder for parent in parents for folder in parent.glob(f"{PREFIX}{owner()}-*")])


def _clear(folders: Sequence[Path]) -> int:
    for folder in folders:
        with suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                send(int(pid), signal.SIGKILL)
            for state, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if (folder / state).exists():
                    (folder / state).write_text(value)
    removed = 0
    for folder in folders:
        with suppress(OSError, SandboxError):
            remove_folder(folder)
            removed += 1
    return removed


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def owner() -> str:
    """This process among all that share the hierarchy: PID namespace, process id, start time in ticks."""
    return f"{_pid_namespace()}-{os.getpid()}-{start_ticks(os.getpid())}"


def is_abandoned(name: str) -> bool:
    """`name` begins with what `owner` answered to a judge that is gone. That of another container, whose processes have
    other numbers, is never taken for gone.
    """
    try:
        namespace, pid, ticks, _ = name.split("-", 3)
        return int(namespace) == _pid_namespace() and start_ticks(int(pid)) != int(ticks)
    except ValueError:
        return False
