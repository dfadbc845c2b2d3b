"""Judges a node by its answers: starting, ready, hung, or to be ended. Pure; times are seconds of a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.protocol import HUNG, READY, STARTING, Load


@dataclass(frozen=True, slots=True)
class Probe:
    """One answer of a node. ``is_failed``: its engine has ended, although its server answers."""

    is_ready: bool
    is_draining: bool = False
    is_failed: bool = False
    load: Load | None = None


@dataclass(slots=True)
class Watch:
    """What is known of a node since ``began_s``."""

    began_s: float
    ready_s: float | None = None
    answered_s: float | None = None
    load: Load = field(default_factory=Load)
    is_draining: bool = False
    is_failed: bool = False

    def note(self, now_s: float, probe: Probe | None) -> None:
        """Take an answer, or None where there was none."""
        if probe is None:
            return
        self.answered_s = now_s
        self.is_draining = self.is_draining or probe.is_draining
        self.is_failed = probe.is_failed
        if probe.load is not None:
            self.load = probe.load
        if probe.is_ready and self.ready_s is None:
            self.ready_s = now_s

    def state(self, now_s: float, options: AgentOptions) -> str:
        """Its state, as heartbeats name it; draining is the agent's own to say."""
        if self.ready_s is None:
            return STARTING
        return HUNG if self._silence(now_s) > options.hung_s else READY

    def verdict(self, now_s: float, options: AgentOptions) -> str:
        """Why it has to be ended now; empty: it has not."""
        if self.is_failed:
            return "its engine ended by itself"
        if self.ready_s is None and now_s - self.began_s > options.start_s:
            return f"it was not ready after {options.start_s:g} s"
        if self.ready_s is not None and self._silence(now_s) > options.hung_end_s:
            return f"it answered nothing for {options.hung_end_s:g} s"
        return ""

    def _silence(self, now_s: float) -> float:
        return 0.0 if self.answered_s is None else now_s - self.answered_s
