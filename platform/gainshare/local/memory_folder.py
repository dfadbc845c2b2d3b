"""A folder in memory for the temporary files of a test session, where there is room for them.

Tests make some hundred thousand files: databases, repositories, trees. A disk takes up to a millisecond for each.
"""

import os
import shutil
from pathlib import Path

import psutil

from gainshare.local.owned_folder import abandoned_folders, make_owned_folder
from gainshare.local.throwaway import remove_leftovers

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (the folder in it is made private to this process)
PREFIX = "gst-"  # short: paths of sockets in it are limited
NEEDED_BYTES = 6 << 30  # what two processes of the suite held at most, several times


def make_memory_folder(parent: Path = SHARED_MEMORY) -> Path | None:
    """Make the folder in `parent`, a file system in memory; None where it lacks room, or programs may not run there.

    The folder of a killed session is removed, with the servers that still work in it.
    """
    for folder in abandoned_folders(parent, PREFIX):
        remove_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return make_owned_folder(parent, PREFIX) if has_room(parent) else None


def has_room(parent: Path) -> bool:
    """Whether the session's files fit in, and leave as much memory again for its processes."""
    if not os.access(parent, os.W_OK | os.X_OK):
        return False
    system = os.statvfs(parent)
    is_executable = not system.f_flag & os.ST_NOEXEC
    return (
        is_executable
        and system.f_bavail * system.f_frsize >= NEEDED_BYTES
        and psutil.virtual_memory().available >= 2 * NEEDED_BYTES
    )
