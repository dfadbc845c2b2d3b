"""How much memory a node may use where no one said: three quarters of what this machine, or its cgroup, has."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def default_memory_bytes() -> int:
    return min(_machine_bytes(), *_group_limits()) * 3 // 4


def _machine_bytes() -> int:
    line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) * 1024


def _group_limits() -> list[int]:
    """Limits of the cgroup at the top of what this process sees: a container's own."""
    found = [_machine_bytes()]
    for file in CGROUP_LIMITS:
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):  # no such version, or "max"
            continue
    return found
