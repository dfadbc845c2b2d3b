"""Processes that end with the one that started them, however that ends. Linux only."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """This process gets the signal `by` when its parent ends: a program that has child processes wants SIGTERM."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
