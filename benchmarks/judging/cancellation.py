"""Stops work from any thread: at once, or between two pairs, so that no measured pair is lost."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class Cancelled(Exception):
    """The run was stopped from outside; nothing was decided."""


@dataclass
class Cancellation:
    """Stops a judge from any thread: whatever it is running is ended at once, or the next pair is not begun."""

    reason: str = ""
    _pause_reason: str = ""
    _enders: list[Callable[[], object]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_set(self) -> bool:
        return bool(self.reason)

    def cancel(self, reason: str) -> None:
        """The first reason given stays."""
        with self._lock:
            self.reason = self.reason or reason
            enders = list(self._enders)
        for end in enders:
            end()

    def cancel_between_pairs(self, reason: str) -> None:
        """Let the pair that is being measured end, and begin no other one. The first reason given stays."""
        with self._lock:
            self._pause_reason = self._pause_reason or reason

    @contextmanager
    def ends(self, end: Callable[[], object]) -> Iterator[None]:
        """Have `end` called when the run is cancelled while the block runs; at once if it was cancelled already.

        Any number of threads may be in such blocks. `end` may still be called shortly after the block.
        """
        with self._lock:
            self._enders.append(end)
            is_set = self.is_set
        try:
            if is_set:
                end()
            yield
        finally:
            with self._lock:
                self._enders.remove(end)

    def check(self) -> None:
        """Raises Cancelled once it is set."""
        if self.is_set:
            raise Cancelled(self.reason)

    def check_between_pairs(self) -> None:
        """Raises Cancelled once either is set; where no pair is being measured."""
        self.check()
        if self._pause_reason:
            raise Cancelled(self._pause_reason)
