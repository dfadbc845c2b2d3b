"""One node of an agent: started by this agent or found running, watched, drained, ended."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.faults import fault_point
from benchmarks.sandbox.readable import readable
from gainshare.capacity.agent.devices import Device
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.protocol import DRAINING, MAX_TEXT, DeviceReport
from gainshare.capacity.agent.records import Record
from gainshare.capacity.agent.watching import Watch

WRONG = 2  # the starter's status where it could not start the node
END_GRACE_S = 5.0  # for a starter to end its sandbox before both are killed
DRAIN_GRACE_S = 10.0  # for a node to end after its own limit of draining
AGAIN_S = 0.5  # between two signals: equal ones that wait are one


@dataclass(slots=True)
class RunningNode:
    """A node's process and what is known of it. ``process`` is None for one that an earlier agent started."""

    device: Device
    record: Record
    token: str = field(repr=False)
    watch: Watch
    process: subprocess.Popen[bytes] | None = None
    reason: str = ""
    """Why it ends; empty while it is to run."""
    drain_until_s: float | None = None
    kill_from_s: float | None = None
    _signalled_s: float = float("-inf")
    _is_told: bool = False

    @property
    def is_draining(self) -> bool:
        return self.drain_until_s is not None or self.watch.is_draining

    def report(self, now_s: float, options: AgentOptions) -> DeviceReport:
        is_ending = self.is_draining or self.kill_from_s is not None
        return DeviceReport(
            device=self.device.number,
            node=self.record.node,
            state=DRAINING if is_ending else self.watch.state(now_s, options),
            port=self.record.port,
            load=self.watch.load,
            berth=self.device.berth,
        )

    def drain(self, now_s: float, reason: str, limit_s: float) -> None:
        """Let it finish what it has begun, for ``limit_s`` at most. Repeating it changes nothing."""
        if self.drain_until_s is not None or self.kill_from_s is not None:
            return
        self.reason, self.drain_until_s = self.reason or reason, now_s + limit_s

    def end(self, now_s: float, reason: str) -> None:
        """End it now, whatever it has begun. Repeating it changes nothing."""
        if self.kill_from_s is None:
            self.reason, self.kill_from_s = reason, now_s

    def tend(self, now_s: float, options: AgentOptions) -> bool:
        """Take one step; returns whether all of it is gone and its berth free."""
        if self._has_ended():
            return self._is_cleared()
        if not self.is_draining and (verdict := self.watch.verdict(now_s, options)):
            self.end(now_s, verdict)
        if self.drain_until_s is not None:
            self._tell_to_drain(now_s, options)
            if now_s > self.drain_until_s:
                self.end(now_s, f"{self.reason}; it had not ended after its time to drain")
        if self.kill_from_s is not None:
            self._tell_to_end(now_s, now_s - self.kill_from_s > END_GRACE_S)
        self.device.cut_log()
        return False

    def why(self) -> str:
        """The reason of its end, for people. A status that the starter itself chose comes with its last line."""
        status = None if self.process is None else self.process.poll()
        if self.reason:
            return self.reason[:MAX_TEXT]
        if status is None:
            return "its process ended"
        if status == WRONG and (line := self._last_line()):
            return line
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"it ended by itself with {how}"

    def _tell_to_drain(self, now_s: float, options: AgentOptions) -> None:
        """One signal: a second one would end it at once. A node that says that it drains has had its signal, so one
        that an earlier agent started is heard first."""
        if self._is_told or self.watch.is_draining or self.kill_from_s is not None:
            return
        is_heard = self.process is not None or self.watch.answered_s is not None
        if not is_heard and now_s - self.watch.began_s < options.hung_s:
            return
        fault_point("agent.drain.before_signal")
        self._is_told = True
        self._signal(signal.SIGTERM)
        fault_point("agent.drain.after_signal")

    def _tell_to_end(self, now_s: float, is_late: bool) -> None:
        if is_late:
            self.device.kill()
        elif now_s - self._signalled_s >= AGAIN_S:
            self._signalled_s = now_s
            self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        pids = self.device.holders() if self.process is None else [self.process.pid]
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _has_ended(self) -> bool:
        if self.process is not None:
            return self.process.poll() is not None
        return not self.device.is_held()

    def _is_cleared(self) -> bool:
        """Whether nothing outlives the starter; what does is killed."""
        if self.device.is_free():
            return True
        self.device.kill()
        return False

    def _last_line(self) -> str:
        with suppress(OSError), self.device.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 4 * MAX_TEXT))
            lines = readable(log.read().decode(errors="replace")).splitlines()
            return next((line for line in reversed(lines) if line.strip()), "")[:MAX_TEXT]
        return ""
