"""Checks whether another system user can reach a file, from modes and owners alone.

Only used as root for `nobody`, who has no groups. It reads `stat` and opens nothing as that user.
"""

from pathlib import Path


def reaches(path: Path, user: int, *, to_enter: bool = False) -> bool:
    """Whether `user` may enter every folder above `path` and read `path` (`to_enter`: only pass through it)."""
    return unreachable_part(path, user, to_enter=to_enter) is None


def unreachable_part(path: Path, user: int, *, to_enter: bool = False) -> Path | None:
    """The first part of the absolute `path` that is closed to `user`, else None. Missing parts are closed."""
    resolved = path.resolve()
    for part in [*reversed(resolved.parents), resolved]:
        try:
            status = part.stat()
        except OSError:
            return part
        mode = status.st_mode >> 6 if status.st_uid == user else status.st_mode
        needed = 0o1 if part != resolved or to_enter else 0o5 if part.is_dir() else 0o4
        if mode & needed != needed:
            return part
    return None
