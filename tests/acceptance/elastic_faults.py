"""Ways to damage real nodes from outside: kill, hang, and slow down."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.sandbox.accounting.processes import tree
from gainshare.capacity.agent.devices import Device

PERIOD_S = 0.1


def processes_of(device: Device) -> list[int]:
    """The node's starter and all below it, the server last."""
    return [stat.pid for starter in device.holders() for stat in tree(starter)]


def kill(pids: list[int]) -> None:
    """kill -9 all of a node at once."""
    signal_all(pids, signal.SIGKILL)


@contextmanager
def hung(device: Device) -> Iterator[None]:
    """The node answers nothing for as long as the block lasts; then it goes on where it was."""
    found = processes_of(device)
    assert found, f"no node runs on the device {device.number}"
    signal_all(found, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(found, signal.SIGCONT)


@contextmanager
def slowed(device: Device, times: int) -> Iterator[None]:
    """The node runs so many times slower: it is stopped for the rest of each tenth of a second."""
    found = processes_of(device)
    assert found, f"no node runs on the device {device.number}"
    ends = threading.Event()

    def alternate() -> None:
        while not ends.is_set():
            signal_all(found, signal.SIGSTOP)
            time.sleep(PERIOD_S * (1 - 1 / times))
            signal_all(found, signal.SIGCONT)
            time.sleep(PERIOD_S / times)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        signal_all(found, signal.SIGCONT)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
