"""One side of a comparison: a process that loads an engine, is asked and timed, and is stopped in between.

The process keeps its own clock; while it is stopped (SIGSTOP on its whole group) it takes nothing from the side that is
asked.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.report import MeasuringFailed

ROOT = Path(__file__).resolve().parents[2]
SHOWN_OF_LOG = 1_500  # characters
STOP_TIMEOUT_S = 10.0
# One thread for every library that has its own idea of how many.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)


class SideFailed(MeasuringFailed):
    """A side ended, took too long or could not do what it was asked; the message names its log."""


def driver(module: str, python: Path = Path(sys.executable)) -> list[str]:
    """The command line of a driver of this package."""
    return [str(python), "-m", f"benchmarks.peers.drivers.{module}"]


class Side:
    """A running driver. Use it as a context manager: leaving ends the process."""

    def __init__(
        self,
        name: str,
        *,
        argv: Sequence[str],
        core: int,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts `argv`, which answers as `drivers/channel.py` does, on one core; what it prints goes to `log`."""
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._buffer = b""
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD, **(env or {}), "PYTHONPATH": str(ROOT)},
                start_new_session=True,
                bufsize=0,
            )
        # It has one thread yet, which all later ones inherit from.
        os.sched_setaffinity(self._process.pid, {core})

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def ask(self, command: str, *, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """The answer of the driver's `command`. Raises SideFailed; after a time-out the process is ended."""
        assert self._process.stdin is not None
        request = json.dumps({"command": command, "arguments": arguments}) + "\n"
        try:
            self._process.stdin.write(request.encode())
        except OSError:
            raise self._failed(command, "has ended") from None
        answer: dict[str, Any] = json.loads(self._line(command, timeout_s))
        if "error" in answer:
            raise self._failed(command, f"failed: {answer['error']}")
        found: dict[str, Any] = answer["answer"]
        return found

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the process and all it has started; may be called again."""
        self._signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _line(self, command: str, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.close()
                    raise self._failed(command, f"took longer than {timeout_s:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._failed(command, "has ended")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _failed(self, command: str, what: str) -> SideFailed:
        tail = self.log.read_text(errors="replace")[-SHOWN_OF_LOG:].strip()
        return SideFailed(f"{self.name} {what} ({command}); the end of {self.log}: {tail or 'empty'}")
