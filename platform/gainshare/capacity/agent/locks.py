"""A lock file that a program holds for as long as it lives, and the processes that outlive one.

The lock is a flock on a descriptor that the program inherits: whatever becomes of the process that started it, the lock
is free if and only if the program has ended.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileLock:
    """A lock on a file, which is made where it is missing."""

    file: Path

    @contextmanager
    def taken(self) -> Iterator[int | None]:
        """Take the lock, or yield None if another process has it. The descriptor is closed afterwards: a program that
        inherited it keeps the lock."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield descriptor
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Whether another process holds the lock. One whose file cannot be used counts as held."""
        try:
            with self.taken() as descriptor:
                return descriptor is None
        except OSError:
            return True

    def holders(self) -> list[int]:
        """Processes that hold the lock's file open."""
        return list(_having_open(str(self.file.resolve())))


def having_mounted(names: Iterable[str]) -> list[int]:
    """Processes that have a folder of one of these names, or one below it, mounted. The names are unique ones."""
    parts = tuple(f"/{name}/" for name in names)
    return [pid for pid in _pids() if parts and _has_mounted(pid, parts)]


def _pids() -> list[int]:
    own = os.getpid()
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if int(path.name) != own]


def _having_open(path: str) -> Iterator[int]:
    for pid in _pids():
        with suppress(OSError):
            if any(
                os.path.realpath(entry.path) == path
                for entry in os.scandir(f"/proc/{pid}/fd")
                if entry.is_symlink()
            ):
                yield pid


def _has_mounted(pid: int, parts: tuple[str, ...]) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            root = line.split(" ", 5)[3].removesuffix("//deleted") + "/"
            if any(part in root for part in parts):
                return True
    return False
