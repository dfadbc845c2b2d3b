"""Durations of a run's phases, in integer nanoseconds. Never part of a verdict."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("setup", "build", "import", "measuring", "checking")


class Phases:
    """Adds up wall-clock time per phase. Phases do not nest."""

    def __init__(self) -> None:
        self._spent_ns = dict.fromkeys(PHASES, 0)

    @contextmanager
    def spend(self, name: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            self._spent_ns[name] += time.perf_counter_ns() - start

    def as_dict(self) -> dict[str, int]:
        return dict(self._spent_ns)
