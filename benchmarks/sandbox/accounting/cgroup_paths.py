"""Finds the cgroup hierarchies of this machine, and the folder in each below which we may make our own.

Pure over the text of /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Hierarchies:
    """`v1`: controller -> our own folder in its hierarchy. `v2`: our own folder in the unified one, or None."""

    v1: dict[str, Path]
    v2: Path | None


def find_hierarchies(mountinfo: str, own_cgroups: str) -> Hierarchies:
    """Resolves where this process is in every mounted hierarchy.

    A hierarchy may be mounted from a folder of it on (containers): the mount's root is cut off our path; where we
    are not below that root the mount's own top is taken.
    """
    own: dict[str, str] = {}  # "memory" -> "/path"; "" is the unified hierarchy
    for line in own_cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if not after.startswith(("cgroup ", "cgroup2 ")):
            continue
        root, mount_point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            v2 = v2 or _below(mount_point, root, own.get("", "/"))
            continue
        for controller in options.split(","):
            if controller in own:
                v1.setdefault(controller, _below(mount_point, root, own[controller]))
    return Hierarchies(v1, v2)


def _below(mount_point: str, root: str, path: str) -> Path:
    try:
        return Path(mount_point) / PurePosixPath(path).relative_to(root)
    except ValueError:
        return Path(mount_point)


def read_hierarchies() -> Hierarchies:
    """Hierarchies of this machine and process."""
    return find_hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
