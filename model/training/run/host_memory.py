"""Keep the memory that a training process frees, in large pages, because the next step needs the same again.

By default glibc gives every large block back to the system at once, and takes it again page by page, each filled with
zeros: on one core about a sixth of a step of a small model. What a process holds at most is the same; it holds it from
the first step to the last. For processes that train and do nothing else.
"""

from __future__ import annotations

import ctypes
import os

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = -1
_GROWTH_BYTES = 64 << 20  # of the heap at a time
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # of torch's CPU allocator: asks for them where a block is 2 MiB or more


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on; false if the C library cannot. Call it before the first tensor."""
    os.environ.setdefault(LARGE_PAGES, "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWTH_BYTES))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
