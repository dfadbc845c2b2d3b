"""Other work on a core, so that what is pinned to it has to wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def busy(core: int, programs: int) -> Iterator[None]:
    """While the block runs, `programs` that never wait share `core` with whatever else is there.

    Each has a separate session, as a sandbox has: the kernel may give every session the same share.
    """
    started = [
        subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True)
        for _ in range(programs)
    ]
    try:
        for program in started:
            os.sched_setaffinity(program.pid, {core})
        yield
    finally:
        for program in started:
            program.kill()
            program.wait()
