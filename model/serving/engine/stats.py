"""Statistics of the engine, for metrics and benchmarks. Bills are made of `metering/usage.py`, not of this."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from model.serving.metering.generation import Finish


@dataclass
class EngineStats:
    """Totals since the start; written by the engine's thread, to be read from any."""

    n_steps: int = 0
    scheduling_ns: int = 0  # time of planning the steps, not of computing them
    prompt_tokens: int = 0  # of requests that have started
    cached_tokens: int = 0  # of those, found in the prefix cache
    completion_tokens: int = 0
    n_drafted: int = 0  # draft tokens
    n_accepted: int = 0  # of those, accepted ones
    finished: Counter[Finish] = field(default_factory=Counter)  # answers by their reason


@dataclass(frozen=True)
class StepReport:
    """One step: `duration_ns` is the device's, sampling included; `scheduling_ns` was spent before it."""

    duration_ns: int
    scheduling_ns: int
    n_sequences: int
    n_tokens: int
