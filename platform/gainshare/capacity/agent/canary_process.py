"""The process of a canary: `python -m benchmarks.canary` in a process group of its own, and all that it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.canary.order import CanaryOrder
from benchmarks.confined_node.folders import CANARY_SEATS
from benchmarks.faults import fault_point
from benchmarks.sandbox import best_level
from benchmarks.sandbox.accounting.placement import sweep, usable_hierarchies
from benchmarks.sandbox.readable import readable
from gainshare.capacity.agent.locks import FileLock, having_mounted
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.protocol import MAX_TEXT
from gainshare.capacity.agent.records import write_private
from gainshare.capacity.agent.starting import environment, node_memory_gib

PROGRAM = ("-m", "benchmarks.canary")
PROGRESS = "progress: "
MAX_LOG_BYTES = 4 << 20
TAIL_BYTES = 16 * 1024
END_GRACE_S = 5.0  # for a canary to end its sandboxes, before all of it is killed
POLL_S = 0.05
_WORK = "canary-"
ORDER, NODES, DOCUMENT, LOG = "order.json", "nodes", "document.json", "log"  # in a canary's own folder


class CanaryTaken(Exception):
    """What another canary left could not be ended yet."""


@dataclass(frozen=True, slots=True)
class CanaryPlace:
    """The folder of a host's canaries. Its lock is held by the one that runs."""

    folder: Path

    @property
    def lock(self) -> FileLock:
        return FileLock(self.folder / "lock")

    def make(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def new_work(self) -> Path:
        """A private folder with a name that no other has: what has a folder below it mounted is found by that."""
        return Path(tempfile.mkdtemp(prefix=_WORK, dir=self.folder))

    def is_free(self) -> bool:
        return not self.lock.is_held() and not self._leftovers()

    def clear(self) -> None:
        """End all that is left of canaries, in order if they do within END_GRACE_S, and remove their folders.

        Raises CanaryTaken where something cannot be killed.
        """
        deadline_s = time.monotonic() + END_GRACE_S
        self._signal(signal.SIGTERM)
        while not self.is_free():
            late_s = time.monotonic() - deadline_s
            if late_s > 0:
                self._signal(signal.SIGKILL)
                _free_frozen()
            if late_s > END_GRACE_S:
                raise CanaryTaken("processes of an earlier canary cannot be killed")
            time.sleep(POLL_S)
        for work in self.folder.glob(f"{_WORK}*"):
            shutil.rmtree(work, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        """To the process group of the process that holds the lock. What only has folders mounted is a sandbox: it gets SIGKILL."""
        for pid in self.lock.holders():
            with suppress(ProcessLookupError, PermissionError):
                group = os.getpgid(pid)
                if group != os.getpgrp():
                    os.killpg(group, number)
                else:
                    os.kill(pid, number)
        if number is signal.SIGKILL:
            for pid in self._leftovers():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _leftovers(self) -> list[int]:
        return having_mounted(path.name for path in self.folder.glob(f"{_WORK}*"))


@dataclass(slots=True)
class CanaryProcess:
    """A canary that this agent started."""

    process: subprocess.Popen[bytes]
    work: Path

    @property
    def output(self) -> Path:
        return self.work / DOCUMENT

    @property
    def log(self) -> Path:
        return self.work / LOG

    def has_ended(self) -> bool:
        """Whether it has; its number stays taken until `reap`, so that its process group can still be told."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self) -> int:
        """Kill what is left in its process group, and return its status."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def progress(self) -> str:
        """Its last line of progress, safe to show."""
        lines = [line for line in self._lines() if line.startswith(PROGRESS)]
        return lines[-1].removeprefix(PROGRESS)[:MAX_TEXT] if lines else ""

    def last_line(self) -> str:
        """Its last line that is no progress, safe to show."""
        lines = [line for line in self._lines() if line.strip() and not line.startswith(PROGRESS)]
        return lines[-1][:MAX_TEXT] if lines else ""

    def _lines(self) -> list[str]:
        with suppress(OSError), self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - TAIL_BYTES))
            text = log.read(TAIL_BYTES).decode(errors="replace")
            if size > MAX_LOG_BYTES:
                os.truncate(self.log, 0)  # it appends
            return readable(text).splitlines()
        return []


def start_canary(
    order: CanaryOrder, place: CanaryPlace, trees: Path, key: Path, options: AgentOptions
) -> CanaryProcess:
    """Start the canary of an order. Raises CanaryTaken, OSError or SandboxError."""
    with place.lock.taken() as descriptor:
        if descriptor is None:
            raise CanaryTaken("another canary runs")
        work = place.new_work()
        write_private(work / ORDER, json.dumps(order.to_json()))
        (work / NODES).mkdir(mode=0o700)
        with (work / LOG).open("ab") as log:
            process = subprocess.Popen(
                canary_command(work, trees, key, options),
                env=environment(0, options, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(descriptor,),
            )
    fault_point("agent.canary.started")
    return CanaryProcess(process, work)


def canary_command(work: Path, trees: Path, key: Path, options: AgentOptions) -> list[str]:
    """The canary's command line."""
    given = {
        "--order": str(work / ORDER),
        "--trees": str(trees),
        "--folder": str(work / NODES),
        "--key": str(key),
        "--models": str(options.models or ""),
        "--level": options.level or best_level().value,
        "--device": options.kind,
        "--memory-gib": f"{node_memory_gib(options):.3f}",
        "--output": str(work / DOCUMENT),
    }
    own = [word for name, value in given.items() if value for word in (name, value)]
    seats = [str(seat) for seat in CANARY_SEATS[:2]]
    return [sys.executable, *PROGRAM, *own, "--seats", *seats]


def _free_frozen() -> None:
    """What is frozen in a cgroup dies only once it is thawed; groups of processes that are gone are cleared."""
    found = usable_hierarchies()
    sweep({*found.v1.values(), *([found.v2] if found.v2 else [])})
