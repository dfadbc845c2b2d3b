"""Control pairs: what base lost by being paired with the candidate, and what it lost by recognising its seat.

A candidate that cannot be fast can make its partner slow (thrash memory, fill shared caches, heat the core), and a base
that was merged as a cheat can be slow whenever it runs as base: both look like a gain. In a control pair both sides run
base. It is measured next to a measured pair, with the same case and shape, and two differences of logarithms come of it:

- *slow-down*: base's time in the measured pair over base's time in the control pair;
- *seat*: in the control pair, the time on base's side over the time on the candidate's side.

An honest pair gives either difference as often below zero as above by the same amount, whatever the noise looks like, since
the order of the two pairs and of the sides is drawn at random. So the bounds are exact (`signed_rank`).

A difference *counts* where its one-sided bound is above zero (98 % for the slow-down, 99 % for the seat, which has much less
noise): then the price is cut by its estimate. It is
*suspicious* where it is above 5 % and its bound at 1 in 2,000 is above zero too. Below 12 comparisons that bound says
little, so the noise is taken as at least what was measured on real machines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from benchmarks.statistics.median import standard_deviation
from benchmarks.statistics.signed_rank import bound_rank, centre, walsh_sums
from benchmarks.statistics.units import PPB, nats

LEAST_SUSPICIOUS_LOG = 0.05  # a difference below this is never called suspicious: it is cut from the price
CUT_ERROR = Fraction(1, 50)
SEAT_CUT_ERROR = Fraction(1, 100)
SURE_ERROR = Fraction(1, 2000)
LEAST_COMPARISONS = (
    12  # of a confirmation that finds a gain; with fewer the bound at 1 in 2,000 hardly exists
)
FEW_ERRORS = 3.0
# Standard deviation of one difference that is assumed below LEAST_COMPARISONS: small samples show less by luck. Between
# processes of pairs 6 to 8 % were measured; between the sides of one pair 1 to 3 %.
SLOWDOWN_FLOOR_LOG = 0.09
SEAT_FLOOR_LOG = 0.03
TARGET_LOG_PPB = 20_000_000  # a slow-down of 0.02 nats should be found with 95 %
# A true difference is found with 95 % where it is (2.054 + 1.645) standard errors: what the bound is below the
# estimate (2.054 of them) times 1.8.
_FOUND_NUMERATOR, _FOUND_DENOMINATOR = 9, 5
BLOCK = 6  # measured pairs between two choices of how many control pairs come next
FIRST_CONTROLS = 3  # in a confirmation's block, until the noise is known


@dataclass(frozen=True, slots=True)
class Difference:
    """One of the two differences over all comparisons, in billionths of a nat; above zero is base's loss.

    `found_ppb` is the smallest true difference that so many comparisons would find with 95 %, None below six.
    """

    comparisons: int
    estimate_ppb: int
    threshold_ppb: int | None  # of suspicion; None where there is no comparison
    counts: bool
    found_ppb: int | None

    @property
    def is_suspicious(self) -> bool:
        """True if it is beyond what noise explains, and large."""
        return self.threshold_ppb is not None and self.estimate_ppb > self.threshold_ppb

    @property
    def cut_ppb(self) -> int:
        """What the price is cut by."""
        return self.estimate_ppb if self.counts else 0


def slowdown(values_ppb: Sequence[int]) -> Difference:
    """Judge the slow-downs of all control pairs, in billionths of a nat."""
    return difference(values_ppb, SLOWDOWN_FLOOR_LOG, CUT_ERROR)


def seat(values_ppb: Sequence[int]) -> Difference:
    """Judge what all control pairs say of base's own seat, in billionths of a nat."""
    return difference(values_ppb, SEAT_FLOOR_LOG, SEAT_CUT_ERROR)


def difference(values_ppb: Sequence[int], floor_log: float, cut_error: Fraction) -> Difference:
    """Judge one of the differences; `floor_log` is the noise assumed of a few comparisons."""
    count = len(values_ppb)
    if count == 0:
        return Difference(0, 0, None, False, None)
    sums = walsh_sums(values_ppb)
    estimate = centre(sums)
    rank = bound_rank(count, cut_error)
    if rank is None:
        return Difference(count, estimate, _few(values_ppb, floor_log), False, None)
    lower, upper = sums[rank - 1], sums[-rank]  # twice the bounds
    found = (upper - lower) * _FOUND_NUMERATOR // (4 * _FOUND_DENOMINATOR)
    threshold = _few(values_ppb, floor_log) if count < LEAST_COMPARISONS else _many(sums, count, estimate)
    return Difference(count, estimate, threshold, lower > 0 and estimate > 0, found)


def _few(values_ppb: Sequence[int], floor_log: float) -> int:
    spread = max(standard_deviation([nats(value) for value in values_ppb]), floor_log)
    return math.ceil(PPB * max(LEAST_SUSPICIOUS_LOG, FEW_ERRORS * spread / math.sqrt(len(values_ppb))))


def _many(sums: Sequence[int], count: int, estimate_ppb: int) -> int:
    rank = bound_rank(count, SURE_ERROR)
    assert rank is not None  # LEAST_COMPARISONS sees to it
    return max(math.ceil(PPB * LEAST_SUSPICIOUS_LOG), estimate_ppb - sums[rank - 1] // 2)


def next_controls(so_far: Difference, blocks_left: int) -> int:
    """Control pairs in the next block of a confirmation, which has `blocks_left` blocks to go, this one included.

    As many as it takes to find a slow-down of 0.02 nats by the noise seen so far, spread over what is left, so that no
    part of a run goes without; at most one for each measured pair.
    """
    if so_far.found_ppb is None:
        return FIRST_CONTROLS
    needed = -(-so_far.comparisons * so_far.found_ppb**2 // TARGET_LOG_PPB**2)
    missing = max(LEAST_COMPARISONS, needed) - so_far.comparisons
    return max(1, min(BLOCK, -(-missing // max(1, blocks_left))))
