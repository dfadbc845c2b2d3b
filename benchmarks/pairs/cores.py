"""Choice of the cores for the samples and for the judge, and how processes are held there. Linux only."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEFAULT_L2_BYTES = 2 << 20


@dataclass(frozen=True)
class Cores:
    """Cores by number. With a single core both are the same, and noise is what it is."""

    measuring: int
    judge: int

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(sorted({self.measuring, self.judge}))


def choose_cores() -> Cores:
    """The last core that this process may use is measured on: interrupts tend to land on the first."""
    available = sorted(os.sched_getaffinity(0))
    return Cores(measuring=available[-1], judge=available[0])


def pin(pids: Iterable[int], core: int) -> None:
    """Hold every thread of these processes on one core; call it while they are frozen, so that none is missed."""
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it was ended meanwhile
            for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names are all that is needed
                _move(int(task), {core})


@contextmanager
def judge_on(core: int) -> Iterator[None]:
    """Keep every thread of this process on `core`; as before on leaving."""
    before = {task: _affinity(task) for task in _own_tasks()}
    for task in before:
        _move(task, {core})
    try:
        yield
    finally:
        original = before.get(threading.get_native_id()) or set(range(os.cpu_count() or 1))
        for task in _own_tasks():
            _move(task, before.get(task) or original)


def _own_tasks() -> list[int]:
    return [int(task) for task in os.listdir("/proc/self/task")]  # noqa: PTH208


def _affinity(task: int) -> set[int]:
    try:
        return set(os.sched_getaffinity(task))
    except ProcessLookupError:
        return set()


def _move(task: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):  # the thread has ended
        os.sched_setaffinity(task, cores)


def l2_bytes(core: int) -> int:
    """Size of the core's private second-level cache, from sysfs."""
    for index in Path(f"/sys/devices/system/cpu/cpu{core}/cache").glob("index*"):
        if (index / "level").read_text().strip() == "2":
            text = (index / "size").read_text().strip()
            return int(text.rstrip("KM")) * (1 << 20 if text.endswith("M") else 1 << 10)
    return DEFAULT_L2_BYTES


class CacheScrubber:
    """Overwrites the measuring core's private caches, so that no call finds what an earlier one left there."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._buffer = np.zeros(2 * l2_bytes(core), dtype=np.uint8)

    @property
    def size_bytes(self) -> int:
        return self._buffer.nbytes

    def scrub(self) -> None:
        """Goes over to the measuring core for the time of one pass over a buffer of twice its size."""
        task = threading.get_native_id()
        home = os.sched_getaffinity(task)
        os.sched_setaffinity(task, {self._core})
        try:
            np.add(self._buffer, 1, out=self._buffer)
        finally:
            os.sched_setaffinity(task, home)
