"""Is base still as fast as what was paid for it? Old pairs, of base and the tree before it, in a confirmation. Pure, exact.

A base that was paid for a gain may be slow from a date on: then whatever is measured against it looks like a gain. So a few
pairs time the tree that base's award was priced against (*old*). Most confirmations end after six of them. Base is called
slow when at least 13 of 14 pairs show less than half of what was paid: then the one-sided 99.9 % upper bound of
ln(old / base), the second largest of 14, is below that half. A base that is worth at least half of what was paid is called
slow with a probability of at most 15 in 16,384, whatever the noise, as long as pairs are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from benchmarks.statistics.median import lower_bound_rank, tail_half

FIRST_PAIRS = 6
ALL_PAIRS = 14
MOST_ABOVE = 1  # so many pairs may show half of what was paid, and base is called slow all the same
PRICE_ERROR = Fraction(1, 20)
STOP_ERROR = tail_half(ALL_PAIRS, ALL_PAIRS - MOST_ABOVE)


class OldOutcome(StrEnum):
    """Outcome of the old pairs so far."""

    MEASURE_ON = "measure_on"
    KEPT = "kept"  # nothing says that base lost what was paid for it
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class OldDecision:
    """The outcome; where base is slow, the bounds of ln(old / base) in billionths of a nat, rounded down, else None."""

    outcome: OldOutcome
    pairs: int
    lower_ppb: int | None = None
    upper_ppb: int | None = None

    @property
    def pairs_wanted(self) -> int:
        """The pairs that there should be before the next decision."""
        return FIRST_PAIRS if self.pairs < FIRST_PAIRS else ALL_PAIRS


def old_decision(gains_ppb: Sequence[int], paid_ppb: int) -> OldDecision:
    """Decide from ln(old / base) of each pair in the order measured, in billionths of a nat; `paid_ppb` was paid for base."""
    for look in (FIRST_PAIRS, ALL_PAIRS):
        if len(gains_ppb) < look:
            break
        above = sum(2 * gain >= paid_ppb for gain in gains_ppb[:look])
        if above > MOST_ABOVE:
            return OldDecision(OldOutcome.KEPT, look)
        if look == ALL_PAIRS:
            ordered = sorted(gains_ppb[:look])
            rank = lower_bound_rank(look, PRICE_ERROR)
            assert rank is not None
            return OldDecision(OldOutcome.SLOW, look, ordered[rank - 1], ordered[-1 - MOST_ABOVE])
    return OldDecision(OldOutcome.MEASURE_ON, len(gains_ppb))
