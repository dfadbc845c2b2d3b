"""Is a merged tree still as fast as what was paid for it? Pairs of the tree before it and the tree itself. Pure, exact.

Such a check is a confirmation's thirty pairs, taken on a schedule. It finds the tree slow when at most six of them show
half of what was paid. A tree that is worth at least half of what was paid is found slow with a probability of at most
0.00072, whatever the noise, as long as pairs are independent. Daily checks would repeat that chance, so one finding
stops nothing: it only orders a second check, with new secrets and processes, and on another host if there is one. Only
where both find the tree slow do merges stop. So a check leads to a false stop with a probability of at most 5.2 in ten
million, and a thousand checks of a series, nearly three years of daily ones, stay below 1 in 1,000.
"""

from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction

from benchmarks.statistics.confirm import CONFIRMATION_PAIRS
from benchmarks.statistics.median import tail_half

CHECK_PAIRS = CONFIRMATION_PAIRS
MOST_ABOVE = 6  # so many pairs may show half of what was paid, and the tree is found slow all the same
CHECKS_TO_AGREE = 2
CHECK_ERROR = tail_half(CHECK_PAIRS, CHECK_PAIRS - MOST_ABOVE)
STOP_ERROR: Fraction = CHECK_ERROR**CHECKS_TO_AGREE
CHECKS_PROMISED = 1_000  # of one series: so many keep the promise of 1 false stop in 1,000


class TipOutcome(StrEnum):
    """Outcome of one check."""

    KEPT = "kept"  # nothing says that the tree lost what was paid for it
    SLOW = "slow"
    FAILED = "failed"  # the tree itself failed; a tree that knows a check could otherwise escape it so
    UNCLEAR = "unclear"  # too few pairs, or times that cannot be trusted


def tip_outcome(gains_ppb: Sequence[int], paid_ppb: int) -> TipOutcome:
    """Decide from ln(tree before / tree) of each pair, in billionths of a nat; `paid_ppb` was paid for the tree."""
    if len(gains_ppb) < CHECK_PAIRS:
        return TipOutcome.UNCLEAR
    above = sum(2 * gain >= paid_ppb for gain in gains_ppb[:CHECK_PAIRS])
    return TipOutcome.KEPT if above > MOST_ABOVE else TipOutcome.SLOW
