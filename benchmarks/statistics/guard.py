"""Guard rails: is the candidate at most `margin` worse on something it was not written for? Pure, exact, sequential.

Non-inferiority turns the question of the gate round: a rail *holds* when a loss of the margin is refuted, not when no
loss was seen. The median log ratio is below minus the margin with a known probability when at least so many pairs lie
above it; the counts are an exact random walk over the looks (`benchmarks.statistics.walk`), so both errors are known:

- a true loss of the margin or more holds with at most 5 % (4.56 % with the standard looks), whatever the noise, as long
  as pairs are independent;
- an equal candidate is stopped at one rail in 1,250 where a pair's normal noise is as large as the margin (0.6 % over
  eight rails), at one in a hundred million where it is two thirds of it.

Most rails end at the first look. `python -m benchmarks.power` prints both errors and the mean number of pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from types import MappingProxyType

from benchmarks.statistics.median import median
from benchmarks.statistics.walk import spending_boundaries

LOOKS = (6, 12, 24, 48)
ERROR = Fraction(1, 20)
# How the error is spent; chosen so that whole counts use most of it and most rails end at six pairs.
_SHARES = MappingProxyType(
    dict(
        zip(LOOKS, (Fraction(32, 100), Fraction(30, 100), Fraction(18, 100), Fraction(20, 100)), strict=True)
    )
)


class GuardOutcome(StrEnum):
    """Outcome of a rail's pairs so far."""

    HOLDS = "holds"  # a loss of the margin is refuted
    VIOLATED = "violated"  # it is worse by more than the margin, or could not be shown not to be
    MEASURE_ON = "measure_on"  # up to the next look


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """Margin by which a candidate may be worse (nats, above zero), and the most pairs that are spent on showing it."""

    margin_log: float
    most_pairs: int = LOOKS[-1]

    def __post_init__(self) -> None:
        if not 0 < self.margin_log < math.inf:
            raise ValueError("a margin is above zero")
        if self.most_pairs not in LOOKS:
            raise ValueError(f"the most pairs are one of {LOOKS}")

    @property
    def looks(self) -> tuple[int, ...]:
        return LOOKS[: LOOKS.index(self.most_pairs) + 1]

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


@cache
def guard_boundaries(error: Fraction = ERROR) -> dict[int, int]:
    """Boundaries of each look: the pairs that must be above minus the margin (or, mirrored, below it)."""
    return spending_boundaries({look: share * error for look, share in _SHARES.items()})


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
        values, needed = sorted(log_ratios[:look]), guard_boundaries()[look]
        lower, upper, estimate = values[look - needed], values[needed - 1], median(values)
        if lower > -plan.margin_log:
            return GuardDecision(GuardOutcome.HOLDS, look, estimate, lower, False)
        is_proven = upper < -plan.margin_log
        if is_proven or look == plan.most_pairs:
            return GuardDecision(GuardOutcome.VIOLATED, look, estimate, lower, is_proven)
        decision = GuardDecision(GuardOutcome.MEASURE_ON, look, estimate, lower, False)
    return decision
