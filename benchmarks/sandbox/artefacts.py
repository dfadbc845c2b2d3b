"""Reads what a build left in a writable mount, without being led elsewhere.

Pipes are the better way out of a sandbox: they are capped and carry bytes only. A file that submitted code wrote may
be a link to a secret of ours, a pipe that never ends, a device, or be exchanged while it is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from benchmarks.sandbox.levels import SandboxError


def read_artefact(folder: Path, name: str, *, limit_bytes: int) -> bytes:
    """The content of regular file `name` (a relative path) below `folder`, which is ours; links are not followed.

    Raises:
        SandboxError: it is absent, not a regular file, reached through a link, linked from elsewhere, or too large.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise SandboxError(f"not a path below the results' folder: {name!r}")
    held = os.open(folder, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
            os.close(held)
            held = inner
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=held)
    except OSError as error:
        raise SandboxError(f"result {name!r} cannot be read: {error.strerror}") from error
    finally:
        os.close(held)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(fd)
        raise SandboxError(f"result {name!r} is not a plain file with one link")
    with os.fdopen(fd, "rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise SandboxError(f"result {name!r} is larger than {limit_bytes} bytes")
    return content
