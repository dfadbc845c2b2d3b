"""Waits for one child process and keeps what the kernel then says it has used, which `subprocess` throws away."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable

FIRST_PAUSE_S = 0.0005
LONGEST_PAUSE_S = 0.05


class Reaper:
    """Reaps `process` by wait4(2) and hands its `rusage` to `on_reaped`, once. No one else may wait for it meanwhile.

    The figures are those of the child and of everything that it, or what it reaped, has reaped. From any thread.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], on_reaped: Callable[[resource.struct_rusage], None]
    ) -> None:
        self._process = process
        self._on_reaped = on_reaped
        self._lock = threading.RLock()

    def poll(self) -> int | None:
        """The return code as `subprocess` has it; None while it runs."""
        with self._lock:
            if self._process.returncode is not None:
                return self._process.returncode
            try:
                pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD is ignored here: nothing is left to be reaped
                return self._process.poll()
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self._on_reaped(usage)
            return self._process.returncode

    def wait(self, timeout_s: float) -> int:
        """The return code. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout_s
        pause_s = FIRST_PAUSE_S
        while (returncode := self.poll()) is None:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise subprocess.TimeoutExpired(self._process.args, timeout_s)
            time.sleep(min(pause_s, remaining_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return returncode
