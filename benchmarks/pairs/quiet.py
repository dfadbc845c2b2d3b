"""Keeps the judge's other threads still while its clock runs, so that none holds the interpreter when an answer comes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Quiet:
    """The measuring thread is in `measuring` while a clock runs; others wait in `between_calls` for a gap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        with self._lock:
            yield

    @contextmanager
    def between_calls(self, patience_s: float) -> Iterator[None]:
        """Goes on after `patience_s` in any case: a call that takes so long is not hurt by company."""
        is_held = self._lock.acquire(timeout=patience_s)
        try:
            yield
        finally:
            if is_held:
                self._lock.release()
