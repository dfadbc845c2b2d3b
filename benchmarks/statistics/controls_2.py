"""Control pairs by the rule of evidence of schema 2, which its documents are verified by. Changed no more; `controls` has today's.

A candidate that cannot be fast can still make its partner slow (thrash memory, fill caches, heat the core), and its
ratio would look like a gain. In a control pair both sides run base's tree; base's times there are compared with its
times in the nearest measured pairs of the same case and shape, so that the machine's slow drift cancels.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from benchmarks.statistics.median import median, standard_deviation

LEAST_SLOWDOWN_LOG = 0.05  # less than this is never called suspicious
NOISE_FLOOR_LOG = (
    0.08  # sd of one comparison across processes: 6-8 % was measured, smaller samples show less by luck
)
ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class BaseTime:
    """Base's time in one pair: `log_ns` is ln of its median call in ns, `key` its case and shape."""

    key: Hashable
    is_control: bool
    log_ns: float


@dataclass(frozen=True, slots=True)
class ControlResult:
    """Slow-down of base next to the candidate, in nats, and the threshold of suspicion."""

    comparisons: int
    slowdown_log: float
    threshold_log: float

    @property
    def is_suspicious(self) -> bool:
        """True if the slow-down is beyond what noise explains."""
        return self.comparisons > 0 and self.slowdown_log > self.threshold_log


def control_check(times: Sequence[BaseTime]) -> ControlResult:
    """Compare base's times in control pairs with those in the nearest measured pairs. `times` is in order measured."""
    slowdowns = [
        beside_candidate - time.log_ns
        for position, time in enumerate(times)
        if time.is_control and (beside_candidate := _nearest(times, position)) is not None
    ]
    if not slowdowns:
        return ControlResult(0, 0.0, math.inf)
    spread = max(standard_deviation(slowdowns), NOISE_FLOOR_LOG)
    threshold = max(LEAST_SLOWDOWN_LOG, ERRORS * spread / math.sqrt(len(slowdowns)))
    return ControlResult(len(slowdowns), median(slowdowns), threshold)


def _nearest(times: Sequence[BaseTime], position: int) -> float | None:
    """Base's time in the measured pairs of the same key before and after, averaged; None if there is none."""
    key = times[position].key
    before = next((t.log_ns for t in reversed(times[:position]) if not t.is_control and t.key == key), None)
    after = next((t.log_ns for t in times[position + 1 :] if not t.is_control and t.key == key), None)
    if before is not None and after is not None:
        return (before + after) / 2
    return before if before is not None else after
