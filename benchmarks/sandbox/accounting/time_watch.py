"""Watches what a sandbox's processes do with their time: how much processor time they use, how long none wants any.

A clock alone cannot tell a slow command from a busy machine. These two can: what waits for a processor that other work
holds uses no time of it, and is not asleep either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, Protocol

from benchmarks.sandbox.accounting.processes import is_asleep
from benchmarks.sandbox.levels import Limits

POLL_S = 0.1  # processes can go over their limit by what they use in so long

TimeHit = Literal["cpu", "idle"]


class Watched(Protocol):
    """Interface of a watched sandbox: see `Sample`."""

    def cpu_ns(self) -> int: ...

    def pids(self) -> list[int]: ...


class TimeWatch:
    """Calls `end` with the limit once that is reached: `Limits.cpu_s` or `Limits.idle_s`. Costs nothing where both are None."""

    def __init__(self, watched: Watched, limits: Limits, end: Callable[[TimeHit], None]) -> None:
        self._watched, self._limits, self._end = watched, limits, end
        self._done = threading.Event()
        self._idle_polls = 0
        if limits.cpu_s is not None or limits.idle_s is not None:
            threading.Thread(target=self._watch, name="sandbox-time", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; from any thread."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            if (hit := self._look()) is not None:
                self._end(hit)
                return

    def _look(self) -> TimeHit | None:
        cpu_s, idle_s = self._limits.cpu_s, self._limits.idle_s
        if cpu_s is not None and self._watched.cpu_ns() > cpu_s * 1e9:
            return "cpu"
        if idle_s is None:
            return None
        # Polls are counted and not the clock: what happened while this thread had to wait itself, no one saw.
        self._idle_polls += self._is_idle()
        return "idle" if self._idle_polls * POLL_S > idle_s else None

    def _is_idle(self) -> bool:
        pids = self._watched.pids()
        return bool(pids) and all(map(is_asleep, pids))
