"""Check that a file that is mapped into memory still has all its bytes.

The system ends a process that reads a mapped file behind its end, without a word: so its size is asked for first. By
name, since a folder may have more shards than a process may have open files.
"""

from __future__ import annotations

from pathlib import Path


class MappedSize:
    """Of the file that has this name when the object is made. One that loses its name later stays whole in memory."""

    def __init__(self, file: Path) -> None:
        """Before the file is mapped. Raises OSError."""
        self._file, found = file, file.stat()
        self.size_bytes = found.st_size
        self._identity = (found.st_dev, found.st_ino)

    def lost(self) -> str | None:
        """What to say of a file that was cut off since; None while it is whole."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        if (found.st_dev, found.st_ino) != self._identity or found.st_size >= self.size_bytes:
            return None
        return f"it has {found.st_size:,} bytes of {self.size_bytes:,} since it was opened"
