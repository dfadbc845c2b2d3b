"""Guard rails: is the candidate at most `margin` worse on something it was not written for? Pure, exact, sequential.

Non-inferiority turns the question of the gate round: a rail *holds* when a loss of the margin is refuted, not when no
loss was seen. The median log ratio is below minus the margin with a known probability when at least so many pairs lie
above it; the counts are an exact random walk over the looks (`benchmarks.statistics.walk`), so both errors are known:

- a true loss of the margin or more holds with at most 1.8 %, whatever the noise, as long as pairs are independent, and with
  at most 5 % where neighbouring pairs resemble each other (AR(1) with 0.3 between pairs, where the looks of schema 2 let
  11 % pass);
- an equal candidate is stopped at one rail in 10,000 where a pair's normal noise is as large as the margin, and practically
  never where it is two thirds of it.

Most rails end at the first look. `python -m benchmarks.power` prints both errors and the mean number of pairs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from benchmarks.statistics.median import median

# Of each look's pairs so many must be above minus the margin (or, mirrored, below it). Found by search: the fewest pairs for
# equal candidates among those that let at most 5 % of losses pass under AR(1) noise of 0.3.
BOUNDARIES: Mapping[int, int] = MappingProxyType({6: 6, 14: 13, 28: 24, 56: 42, 96: 65})
BOUNDARIES_2: Mapping[int, int] = MappingProxyType({6: 6, 12: 10, 24: 18, 48: 32})  # of evidence of schema 2
LOOKS = tuple(BOUNDARIES)


class GuardOutcome(StrEnum):
    """Outcome of a rail's pairs so far."""

    HOLDS = "holds"  # a loss of the margin is refuted
    VIOLATED = "violated"  # it is worse by more than the margin, or could not be shown not to be
    MEASURE_ON = "measure_on"  # up to the next look


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """Margin by which a candidate may be worse (nats, above zero), and how many of each look's pairs decide."""

    margin_log: float
    boundaries: Mapping[int, int] = field(default_factory=lambda: BOUNDARIES)

    def __post_init__(self) -> None:
        if not 0 < self.margin_log < math.inf:
            raise ValueError("a margin is above zero")

    @property
    def looks(self) -> tuple[int, ...]:
        return tuple(self.boundaries)

    @property
    def most_pairs(self) -> int:
        """The pairs after which a decision is certain."""
        return self.looks[-1]

    def next_look(self, pairs: int) -> int | None:
        """The first look after `pairs` pairs, or None."""
        return next((look for look in self.looks if look > pairs), None)


@dataclass(frozen=True, slots=True)
class GuardDecision:
    """The outcome of the last look taken, in nats; `bound` is the lower bound of the median, None before a look."""

    outcome: GuardOutcome
    look: int
    estimate: float | None
    bound: float | None
    is_proven: (
        bool  # a violation that the numbers show; False also where nothing could be shown within the cap
    )


def guard_decision(log_ratios: Sequence[float], plan: GuardPlan) -> GuardDecision:
    """Take every look that the pairs allow; the first that decides, decides.

    Values are ln(base / candidate) of each pair in the order measured, whatever the unit, smaller being better: below
    zero where the candidate is worse. Raises ValueError for values that are not finite.
    """
    if not all(map(math.isfinite, log_ratios)):
        raise ValueError("a log ratio is not finite")
    decision = GuardDecision(GuardOutcome.MEASURE_ON, 0, None, None, False)
    for look in plan.looks:
        if len(log_ratios) < look:
            break
        values, needed = sorted(log_ratios[:look]), plan.boundaries[look]
        lower, upper, estimate = values[look - needed], values[needed - 1], median(values)
        if lower > -plan.margin_log:
            return GuardDecision(GuardOutcome.HOLDS, look, estimate, lower, False)
        is_proven = upper < -plan.margin_log
        if is_proven or look == plan.most_pairs:
            return GuardDecision(GuardOutcome.VIOLATED, look, estimate, lower, is_proven)
        decision = GuardDecision(GuardOutcome.MEASURE_ON, look, estimate, lower, False)
    return decision
