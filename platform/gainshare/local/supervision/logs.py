"""Bounded log files: each service appends to one, and long ones are rotated in place.

The services keep the files open in append mode, so copying a file and truncating it loses at most the lines
written in between. Logs do not go through the supervisor, so they survive its death.
"""

import shutil
from pathlib import Path

MAX_BYTES = 8 * 1024 * 1024


def rotate(path: Path, *, max_bytes: int = MAX_BYTES) -> bool:
    """Copy a log longer than `max_bytes` to `NAME.log.1` and truncate it. True if it did.

    On a full disk the old lines are lost, and the log is truncated anyway.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    older = path.with_name(path.name + ".1")
    try:
        shutil.copyfile(path, older)
    except OSError:
        older.unlink(missing_ok=True)
    with path.open("r+b") as file:
        file.truncate(0)
    return True


def tail(path: Path, *, max_bytes: int = 1500) -> str:
    """The end of a log, from the beginning of a line if possible; empty if there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - max_bytes))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return text.partition("\n")[2] if size > max_bytes and "\n" in text else text


def contains_after(path: Path, offset: int, text: str) -> bool:
    """Whether `text` was written to the log after byte `offset` (from the start if it was rotated since)."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(offset if offset <= size else 0)
            return text.encode() in file.read()
    except FileNotFoundError:
        return False
