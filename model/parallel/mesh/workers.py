"""Start, watch and end the processes of all ranks but rank 0."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from model.parallel.mesh.processes import RankMissingError

POLL_S = 0.1
LOST_ANOTHER = 3  # exit status of a rank that ends only because it lost another one
HERE = "here"  # the line on a worker's standard output before it joins
REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Ended:
    """A rank whose process has ended."""

    rank: int
    status: int

    def __str__(self) -> str:
        if self.status < 0:
            return f"rank {self.rank} was ended by {signal.Signals(-self.status).name}"
        return f"rank {self.rank} ended with exit status {self.status}"


class Workers:
    """Ranks 1 ... n of a job, each `python -m MODULE RANK JOB` with its output on our standard error.

    They end when the writing end of their pipe, which is ours, closes: so none outlives this process, however it ends.
    """

    def __init__(self, module: str, job: str, n_workers: int) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *_python_path()])}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._closing = threading.Event()
        self._watching: threading.Thread | None = None
        try:
            for rank in range(1, n_workers + 1):
                self._processes[rank] = subprocess.Popen(
                    [sys.executable, "-m", module, str(rank), job],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                )
        except OSError:
            self.kill()
            raise

    @property
    def process_ids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def wait_for_line(self, timeout_s: float) -> None:
        """Wait until each has written a line. Raises RankMissingError where one ends first, or takes longer."""
        deadline = time.monotonic() + timeout_s
        for rank, process in self._processes.items():
            assert process.stdout is not None
            if not _line_comes(process.stdout, deadline):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                ended = self.first_ended()
                why = (
                    f"{ended}: see its output above" if ended else f"it did not respond for {timeout_s:.0f} s"
                )
                raise RankMissingError(f"rank {rank} of {len(self._processes) + 1} did not start: {why}")

    def first_ended(self, wait_s: float = 0.0, *, by_itself: bool = False) -> Ended | None:
        """Wait at most `wait_s` for a rank whose process has ended.

        `by_itself` skips ranks that ended only because they lost another one.
        """
        deadline = time.monotonic() + wait_s
        while True:
            for rank, process in self._processes.items():
                status = process.poll()
                if status is not None and not (by_itself and status == LOST_ANOTHER):
                    return Ended(rank, status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_S)

    def watch(self, on_end: Callable[[Ended], None]) -> None:
        """Call `on_end` once, on a separate thread, when a rank ends unexpectedly."""

        def watch() -> None:
            while not self._closing.wait(POLL_S):
                ended = self.first_ended()
                if ended is not None and not self._closing.is_set():
                    on_end(ended)
                    return

        self._watching = threading.Thread(target=watch, name="ranks", daemon=True)
        self._watching.start()

    def running(self) -> list[int]:
        """The ranks whose processes are running, hanging ones included."""
        return [rank for rank, process in self._processes.items() if process.poll() is None]

    def end(self, grace_s: float) -> list[int]:
        """Wait for the ranks to end, then kill the others and return them. May be called again."""
        self._closing.set()
        deadline = time.monotonic() + grace_s
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.0))
        late = self.running()
        self.kill()
        return late

    def kill(self) -> None:
        """Kill all ranks."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def attach() -> None:
    """Start a worker: report that it runs, make it end with its parent, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all ranks; rank 0 tells us to stop
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    sys.stdout.write(f"{HERE}\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the pipe is not read any further


def _end_with_parent() -> None:
    """Exit when the parent's end of the pipe closes; on a thread, since a collective may block the main one."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin: its lock would be held when the interpreter ends
    os._exit(0)


def _line_comes(pipe: IO[bytes], deadline: float) -> bool:
    remaining = max(deadline - time.monotonic(), 0.0)
    ready, _, _ = select.select([pipe], [], [], remaining)
    return bool(ready) and bool(pipe.readline())


def _python_path() -> list[str]:
    return list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
