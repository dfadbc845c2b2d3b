"""Free disk space that local mode needs, and the message if there is less."""

import shutil

from gainshare.local.paths import Home

MIB = 1024 * 1024
NEEDED_FREE_BYTES = 256 * MIB
"""Bytes that a start needs: a new database with its journal, logs and the broker's journal."""
LOW_FREE_BYTES = 64 * MIB
"""Below this PostgreSQL may soon be unable to write its journal."""


def free_space_problem(home: Home, needed_bytes: int) -> str | None:
    """Message if there is too little space for the database and logs, or None."""
    free = shutil.disk_usage(home.root).free
    if free >= needed_bytes:
        return None
    return (
        f"only {free / 2**20:.0f} MiB are free in {home.root}, but local mode needs {needed_bytes / 2**20:.0f} MiB: "
        "free some, or set GAINSHARE_HOME to a folder on another disk"
    )
