"""One berth of a device: its folder, and the lock that keeps a second node off it.

A device has two berths: a node, and its successor for the time of a handover. A berth is free if and only if its lock can
be taken and no process of an earlier sandbox is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.confined_node.folders import BERTHS, berth_seat
from gainshare.capacity.agent.locks import FileLock, having_mounted

LOCK, RECORD, TOKEN, LOG, NODE = "lock", "record.json", "token", "node.log", "node"
MAX_LOG_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Device:
    """A berth of a device and its folder: the lock, its node's record, token and log, and the node's own folder."""

    number: int
    folder: Path
    berth: int = 0

    @property
    def key(self) -> tuple[int, int]:
        return self.number, self.berth

    @property
    def name(self) -> str:
        """For people."""
        return f"device {self.number}" + (f", berth {self.berth}" if self.berth else "")

    @property
    def seat(self) -> int:
        """Decides its node's user, as root."""
        return berth_seat(self.number, self.berth)

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
        """As `FileLock.taken`."""
        with FileLock(self.lock).taken() as descriptor:
            yield descriptor

    def is_held(self) -> bool:
        """Whether another process holds the lock. A berth whose folder cannot be used counts as held."""
        return FileLock(self.lock).is_held()

    def is_free(self) -> bool:
        """Whether nothing of a node is left: no starter holds the lock, and no sandbox outlives its starter."""
        return not self.is_held() and not self.leftovers()

    def holders(self) -> list[int]:
        """Processes that hold the lock's file open: the node's starter."""
        return FileLock(self.lock).holders()

    def leftovers(self) -> list[int]:
        """Processes of sandboxes that were started in this folder, found by the folders that only they have mounted.

        A starter that ends in order removes those folders, so there is nothing to look for then.
        """
        return having_mounted(path.name for path in self.node.glob("run-*"))

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


def berth_of(folder: Path, number: int, berth: int = 0) -> Device:
    """A berth below an agent's folder. The first one has the device's own folder, as before there were two."""
    device = folder / "devices" / str(number)
    return Device(number, device / f"berth-{berth}" if berth else device, berth)


def devices_in(folder: Path, count: int) -> list[Device]:
    """The berths of devices 0 to ``count`` - 1, and of further ones that an earlier start of more devices left there."""
    found = {int(path.name) for path in (folder / "devices").glob("[0-9]*") if path.name.isdigit()}
    numbers = sorted(found | set(range(count)))
    return [berth_of(folder, number, berth) for number in numbers for berth in range(BERTHS)]


def _copied(log: Path) -> Path:
    part = log.with_suffix(".part")
    with log.open("rb") as source, part.open("wb") as target:
        source.seek(-MAX_LOG_BYTES // 2, os.SEEK_END)
        target.write(source.read(MAX_LOG_BYTES // 2))
    return part
