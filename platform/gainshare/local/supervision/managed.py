"""A supervised process: start it, wait for readiness, restart it when it dies, stop it.

Nothing here blocks: `tend` takes one step and returns, so that the supervisor can handle all processes in turn.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from gainshare.local.errors import LocalModeError
from gainshare.local.state import ServiceState
from gainshare.local.supervision import processes
from gainshare.local.supervision.logs import contains_after, rotate
from gainshare.local.supervision.spec import ServiceSpec

BACK_OFF_S = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_AFTER_S = 60.0  # a process that lived this long restarts with the shortest wait


def back_off_s(failures: int) -> float:
    """Seconds to wait before the next start, after this number of failures in a row (at least one)."""
    return BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1]


class Managed:
    """Process of one spec. `say` gets a line of text for notable events."""

    def __init__(self, spec: ServiceSpec, logs: Path, say: Callable[[str], None]) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self.state = ServiceState(
            state="unavailable" if spec.unavailable else "waiting", detail=spec.unavailable
        )
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._is_asked = False
        self._log_offset = 0
        self.failures = 0
        self._started_at = 0.0
        self._next_start_at = 0.0

    @property
    def is_ready(self) -> bool:
        return self.state.state == "ready"

    def start(self) -> None:
        self.spec.before_start()
        rotate(self.log)
        with self.log.open("ab") as output:
            self._log_offset = output.tell()
            self._process = processes.start(
                self.spec.argv,
                env=self.spec.env,
                log=output,
                cwd=self.spec.cwd,
                user=self.spec.user,
                group=self.spec.group,
                death_signal=self.spec.stop_signal,
            )
        self._started_at = time.monotonic()
        identity = processes.ProcessId.of(self._process.pid)
        self.state.state = "starting"
        self.state.pid = self._process.pid
        self.state.started_ticks = identity.started_ticks if identity else None

    def tend(self) -> None:
        """Take one step: detect a death, restart when due, detect readiness or its timeout."""
        now = time.monotonic()
        if self.state.state == "restarting":
            if now >= self._next_start_at:
                self._restart()
        elif self._process is not None and (status := self._process.poll()) is not None:
            if now - self._started_at > STEADY_AFTER_S:
                self.failures = 0
            self._fail(f"ended with {_status(status)}")
        elif self.state.state == "starting":
            if self.spec.is_ready(lambda text: contains_after(self.log, self._log_offset, text)):
                self.state.state = "ready"
                self.state.detail = ""
            elif now - self._started_at > self.spec.ready_timeout_s:
                self._fail(f"was not ready after {self.spec.ready_timeout_s:g} s")
        rotate(self.log)

    def ask_to_stop(self) -> None:
        """Send the stop signal and return at once; `stop` does the rest."""
        if self._process is not None and not self._is_asked:
            self._process.send_signal(self.spec.stop_signal)
            self._is_asked = True

    def stop(self) -> None:
        self.ask_to_stop()
        if self._process is not None:
            processes.stop(self._process, first=None, grace_s=self.spec.stop_grace_s)
            self._process = None
        if not self.spec.unavailable:
            self.state = ServiceState(state="stopped", restarts=self.state.restarts)

    def _restart(self) -> None:
        self.state.restarts += 1
        try:
            self.start()
        except (OSError, LocalModeError) as error:
            self._fail(f"could not be started: {error}")

    def _fail(self, what: str) -> None:
        if self._process is not None:
            processes.stop(self._process, first=self.spec.stop_signal, grace_s=2)
            self._process = None
        self.failures += 1
        wait_s = back_off_s(self.failures)
        self._next_start_at = time.monotonic() + wait_s
        self.state = ServiceState(state="restarting", restarts=self.state.restarts, detail=what)
        self._say(f"{self.spec.name} {what}; starting it again in {wait_s:g} s (log: {self.log})")


def _status(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
