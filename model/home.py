"""The stack's state folder, and private folders in it.

Imports nothing but the standard library.
"""

from __future__ import annotations

import os
from pathlib import Path

BESIDE_THE_CODE = Path(__file__).resolve().parents[1] / ".gainshare"


class FolderNotOwnError(Exception):
    """A folder that other users can write into; the message says what to do."""


def home_folder(given: Path | None = None) -> Path:
    """The argument, else GAINSHARE_HOME, else `.gainshare` next to the code."""
    return given or Path(os.environ.get("GAINSHARE_HOME") or BESIDE_THE_CODE)


def make_own(folder: Path) -> None:
    """Make a folder that only this user can write into, if it is missing. Raises OSError or FolderNotOwnError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise FolderNotOwnError(
            f"other users can write into {folder}: make it yours (chown) and private (chmod 700)"
        )
