"""Check that a file that is mapped into memory still has all its bytes.

The system kills a process that reads a mapped file beyond its end (SIGBUS), so the size is checked first. It is checked
by name, since a folder may have more shards than a process may have open files.
"""

from __future__ import annotations

from pathlib import Path


class MappedSize:
    """Size of the file with this name when the object is made. A file that is removed later stays whole in memory."""

    def __init__(self, file: Path) -> None:
        """To be made before the file is mapped. Raises OSError."""
        self._file, found = file, file.stat()
        self.size_bytes = found.st_size
        self._identity = (found.st_dev, found.st_ino)

    def lost(self) -> str | None:
        """The error text of a file that was truncated since; None while it is whole."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        if (found.st_dev, found.st_ino) != self._identity or found.st_size >= self.size_bytes:
            return None
        return f"it was truncated from {self.size_bytes:,} to {found.st_size:,} bytes since it was opened"
