"""The gate: tests if a candidate's gain exceeds the noise. Looks at 6, 12, 24, 48 pairs, 96 and 144 where noise needs it.

One number per pair goes in, ln(base time / candidate time), above zero where the candidate is faster. The question
at every look is whether the pairs' median is above zero, at a total error of `alpha` over all looks.

- From 12 pairs on the bound is an order statistic of the pairs. It holds for any noise with that median, heavy
  tails and skew included; only independence is assumed, and the judge brings it about by drawing at random which
  side is started first. The counts come from an exact random walk (`boundaries`), not from an approximation.
- At 6 pairs no such bound exists at this alpha (all six above zero happen once in 64). There only a large effect can
  pass: all six above zero, an estimate of at least `CLEAR_EFFECT_LOG`, and the median above five standard deviations
  of the pairs: Student's 1 - 0.0001 quantile at 5 degrees of freedom, 9.678, times the median's relative
  efficiency 1.2533, over the root of 6.
- Bounds are taken against `allowance_log`, half the minimum effect, instead of bare zero: a build may be faster by
  chance of its memory layout, in all pairs of a run alike, and no number of pairs averages that out.
- A pass also needs an estimate of at least the minimum effect: the suite's, or 3 standard errors at the last look.
- Two equal modes leave nothing near the median: there a 2 % gain needs more than 96 pairs to be found. So where the
  noise still hides the minimum effect at 96 there is one more look, at 144. It takes nothing from the earlier ones:
  what whole counts left unspent pays for it.

It stops early for a gain, for a regression (the mirror image) and for futility. `python -m benchmarks.power` prints
error rates and power under many kinds of noise. An end for futility spends no error: later attempts of the same
candidate may continue from it (`earlier_pairs`, `benchmarks.statistics.attempts`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from functools import cache

from benchmarks.statistics.median import median, standard_deviation, standard_error_of_median
from benchmarks.statistics.walk import spending_boundaries

LOOKS = (6, 12, 24, 48)
EXTENDED_LOOKS = (96, 144)
CLEAR_EFFECT_LOG = 0.13976194237515868  # ln 1.15
CLEAR_DEVIATIONS = 5.0
EXTENSION_ERRORS = (
    4.0  # continue to an extended look when the minimum effect is within so many standard errors
)
EFFECT_ERRORS = 3.0
MEDIAN_EFFICIENCY = (
    1.2533141373155003  # sqrt(pi / 2): the median's standard error over the mean's, normal noise
)

# How the total error is spent, as shares of alpha; what a look cannot spend, because counts are whole, stays unspent.
_SHARES = {
    look: Fraction(percent, 100) for look, percent in {6: 10, 12: 25, 24: 15, 48: 35, 96: 8, 144: 7}.items()
}
# Futility: at this look, an estimate below this multiple of the minimum effect ends the run.
FUTILE = {6: 0.0, 12: 0.5, 24: 0.8, 48: 1.0, 96: 1.0}


class GateOutcome(StrEnum):
    """Outcome of a look."""

    CONTINUE = "continue"  # measure on, up to the next look
    GAIN = "gain"
    NO_GAIN = "no_gain"
    REGRESSION = "regression"


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Looks and thresholds of a gate.

    `looks` is a leading part of `LOOKS`; effects are ln(base / candidate), in nats. Without `may_extend` the last
    look is final.
    """

    minimum_effect_log: float
    looks: tuple[int, ...] = LOOKS
    alpha: Fraction = Fraction(1, 1000)
    may_extend: bool = True

    def __post_init__(self) -> None:
        if not self.looks or self.looks != LOOKS[: len(self.looks)]:
            raise ValueError(f"looks are {LOOKS} or a leading part of it")
        if not self.minimum_effect_log > 0 or not 0 < self.alpha < 1:
            raise ValueError("the minimum effect is above zero and alpha between zero and one")
        if self.may_extend and self.looks != LOOKS:
            object.__setattr__(self, "may_extend", False)

    @property
    def allowance_log(self) -> float:
        """Allowance for a lucky build: bounds must exceed it."""
        return self.minimum_effect_log / 2

    @property
    def most_pairs(self) -> int:
        """The pairs after which a decision is certain."""
        return self.all_looks()[-1]

    def next_look(self, pairs: int) -> int | None:
        """The first look after `pairs` pairs, or None."""
        return next((look for look in self.all_looks() if look > pairs), None)

    def all_looks(self) -> tuple[int, ...]:
        """The looks, with those that only noise brings about."""
        return (*self.looks, *EXTENDED_LOOKS) if self.may_extend else self.looks


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The outcome of the last look taken, in nats.

    `bound` is the lower bound of the median after the allowance (for a regression: the upper bound, above which it
    is not), None before the first look or where this look has none. `minimum_effect` is the one asked for.
    """

    outcome: GateOutcome
    look: int
    estimate: float | None
    bound: float | None
    minimum_effect: float


@cache
def boundaries(alpha: Fraction) -> dict[int, int]:
    """Boundaries of each look after the first: the pairs that must be above the allowance. Exact."""
    return spending_boundaries({look: share * alpha for look, share in _SHARES.items() if look != LOOKS[0]})


def gate_decision(log_ratios: Sequence[float], plan: GatePlan, *, earlier_pairs: int = 0) -> GateDecision:
    """Take every look that `log_ratios` (in the order measured) allows; the first that decides, decides.

    Values are ln(base time / candidate time) of each pair. Pairs after a deciding look change nothing. The first
    `earlier_pairs` of them are from earlier attempts of the same candidate: looks among them still decide a gain or a
    regression, but what ended for futility continues, up to the plan's last look. Raises ValueError for values that are
    not finite.
    """
    if not all(map(math.isfinite, log_ratios)):
        raise ValueError("a log ratio is not finite")
    decision = GateDecision(GateOutcome.CONTINUE, 0, None, None, plan.minimum_effect_log)
    for look in plan.all_looks():
        if len(log_ratios) < look:
            break
        decision = _look(log_ratios[:look], plan)
        if decision.outcome is GateOutcome.NO_GAIN and look <= earlier_pairs and look < plan.most_pairs:
            decision = replace(decision, outcome=GateOutcome.CONTINUE)
        if decision.outcome is not GateOutcome.CONTINUE:
            break
    return decision


def _look(values: Sequence[float], plan: GatePlan) -> GateDecision:
    look, estimate = len(values), median(values)
    minimum, extends = _minimum_effect(values, plan)
    lower = _bound(values, plan)
    upper = _bound([-value for value in values], plan)  # of the mirror image
    is_first = look == LOOKS[0]
    floor = max(minimum, CLEAR_EFFECT_LOG) if is_first else minimum
    if lower is not None and lower > 0 and estimate >= floor:
        return GateDecision(GateOutcome.GAIN, look, estimate, lower, minimum)
    if upper is not None and upper > 0 and -estimate >= floor:
        return GateDecision(GateOutcome.REGRESSION, look, estimate, -upper, minimum)
    is_last = look == plan.most_pairs or (look >= plan.looks[-1] and not extends)
    if is_last or _is_futile(estimate, look, plan):
        return GateDecision(GateOutcome.NO_GAIN, look, estimate, lower, minimum)
    return GateDecision(GateOutcome.CONTINUE, look, estimate, lower, minimum)


def _minimum_effect(values: Sequence[float], plan: GatePlan) -> tuple[float, bool]:
    """The least estimate that passes, and whether the noise calls for the next extended look."""
    last = plan.looks[-1]
    at_last = standard_error_of_median(values) * math.sqrt(len(values) / last)
    # Two modes may leave the order statistics around the median equal; the standard deviation still sees them.
    by_deviation = MEDIAN_EFFICIENCY * standard_deviation(values) / math.sqrt(last)
    extends = plan.may_extend and EXTENSION_ERRORS * max(at_last, by_deviation) > plan.minimum_effect_log
    if extends:
        at_last *= math.sqrt(last / plan.most_pairs)
    return max(plan.minimum_effect_log, EFFECT_ERRORS * at_last), extends


def _bound(values: Sequence[float], plan: GatePlan) -> float | None:
    """The lower bound of the median at this look, less the allowance."""
    if len(values) == LOOKS[0]:
        if min(values) <= 0:
            return None
        return median(values) - CLEAR_DEVIATIONS * standard_deviation(values) - plan.allowance_log
    needed = boundaries(plan.alpha)[len(values)]
    return sorted(values)[len(values) - needed] - plan.allowance_log if needed <= len(values) else None


def _is_futile(estimate: float, look: int, plan: GatePlan) -> bool:
    """True if more pairs are not worth their time: neither a gain nor a regression is in sight."""
    if look == plan.most_pairs or estimate >= FUTILE[look] * plan.minimum_effect_log:
        return False
    may_be_regression = estimate <= -plan.minimum_effect_log and look < LOOKS[2]
    return not may_be_regression
