"""Return freed memory to the system, which glibc keeps where pieces around it are in use."""

from __future__ import annotations

import ctypes


def return_freed_memory() -> bool:
    """Return freed memory; true if the C library returned some. Takes milliseconds for each GiB of heap."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # musl, macOS
        return False
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return bool(trim(0))
