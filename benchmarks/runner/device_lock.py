"""One measurement at a time on a device: runner, `bench` and A/A control of one user take turns.

A lock of the operating system on a file in the temporary folder: it is free again when its holder ends, however.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path


@contextmanager
def device_lock(
    hardware: str, *, waiting: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[None]:
    """Hold the device while the block runs; while another process holds it, what `waiting` returns is entered."""
    path = Path(tempfile.gettempdir()) / f"gainshare-{os.getuid()}-{hardware}.lock"
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with waiting():
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
