"""One device of a host: its folder, and the lock that keeps a second node off it.

The lock is a flock that the node's starter inherits and holds for as long as it lives, whatever becomes of the agent. So a
device is free if and only if its lock can be taken and no process of an earlier sandbox is left.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LOCK, RECORD, TOKEN, LOG, NODE = "lock", "record.json", "token", "node.log", "node"
MAX_LOG_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Device:
    """A device and its folder, which holds its lock, its node's record, token and log, and the node's own folder."""

    number: int
    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / LOCK

    @property
    def record(self) -> Path:
        return self.folder / RECORD

    @property
    def token(self) -> Path:
        return self.folder / TOKEN

    @property
    def log(self) -> Path:
        return self.folder / LOG

    @property
    def node(self) -> Path:
        return self.folder / NODE

    def make(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def taken(self) -> Iterator[int | None]:
        """Take the lock, or yield None if another process has it. The descriptor is closed afterwards: who inherited
        it keeps the lock."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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
        """Whether another process holds the lock. A device whose folder cannot be used counts as held."""
        try:
            with self.taken() as descriptor:
                return descriptor is None
        except OSError:
            return True

    def is_free(self) -> bool:
        """Whether nothing of a node is left: no starter holds the lock, and no sandbox outlives its starter."""
        return not self.is_held() and not self.leftovers()

    def holders(self) -> list[int]:
        """Processes that hold the lock's file open: the node's starter."""
        return list(_having_open(str(self.lock.resolve())))

    def leftovers(self) -> list[int]:
        """Processes of sandboxes that were started in this folder, found by the folders that only they have mounted.

        A starter that ends in order removes those folders, so there is nothing to look for then.
        """
        names = [f"/{path.name}" for path in self.node.glob("run-*")]
        return list(_having_mounted(names)) if names else []

    def kill(self) -> list[int]:
        """Kill all that is left of a node here, starter first. Returns the processes that were killed."""
        found = [*self.holders(), *self.leftovers()]
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return found

    def cut_log(self) -> None:
        """Keep the node's log bounded: what is too long moves to a second file. Its writer appends."""
        with suppress(OSError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                _copied(self.log).replace(self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)


def devices_in(folder: Path, count: int) -> list[Device]:
    """The devices 0 to ``count`` - 1, and further ones that an earlier start of more devices left there."""
    parent = folder / "devices"
    found = {int(path.name) for path in parent.glob("[0-9]*") if path.name.isdigit()}
    return [Device(number, parent / str(number)) for number in sorted(found | set(range(count)))]


def _copied(log: Path) -> Path:
    part = log.with_suffix(".part")
    with log.open("rb") as source, part.open("wb") as target:
        source.seek(-MAX_LOG_BYTES // 2, os.SEEK_END)
        target.write(source.read(MAX_LOG_BYTES // 2))
    return part


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


def _having_mounted(names: Iterable[str]) -> Iterator[int]:
    """Processes in whose mounts a folder of one of these names is the root of a mount."""
    ends = tuple(names)
    for pid in _pids():
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                root = line.split(" ", 5)[3].removesuffix("//deleted")
                if root.endswith(ends):
                    yield pid
                    break
