"""Whether another system user could get to a file, from modes and owners alone.

Only root asks (for `nobody`, who has no groups): the answer comes from `stat`, nothing is opened as that user.
"""

from pathlib import Path


def reaches(path: Path, user: int) -> bool:
    """Whether `user` may enter every folder above `path`, and read or enter `path` itself."""
    return unreachable_part(path, user) is None


def unreachable_part(path: Path, user: int) -> Path | None:
    """The first part of the absolute `path` that `user` may not enter (last part: may not read), else None."""
    resolved = path.resolve()
    for part in [*reversed(resolved.parents), resolved]:
        try:
            status = part.stat()
        except OSError:
            return part
        mode = status.st_mode >> 6 if status.st_uid == user else status.st_mode
        needed = 0o5 if part == resolved else 0o1
        if part == resolved and part.is_file():
            needed = 0o4
        if mode & needed != needed:
            return part
    return None
