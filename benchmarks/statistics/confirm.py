"""The confirmation: a fixed number of fresh pairs, whose one-sided 95 % lower bound alone sets the award.

The bound is the r-th smallest pair, r being the largest rank that is above the true median with at most 5 %
probability. That holds for every noise with independent pairs. The number of pairs is fixed beforehand, so nothing is
gained by stopping at a lucky moment. At 30 pairs the rank is 11 and the exact confidence 95.06 %; at 24 it is 8 and
96.8 %, which pays less for the same gain.

Pairs that resemble their neighbours carry less than their number: under AR(1) noise of the candidate itself the 11th
of 30 is too high in 9 % of runs instead of 5. So where the rank correlation of neighbours is above `CORRELATION_STEPS`
the bound is one to three ranks lower (of 30). Without correlation that happens in a quarter of the runs by chance and
costs 0.04 standard deviations of a pair on average; a lower rank is never less safe.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from benchmarks.statistics.median import lower_bound_rank, median, tail_half
from benchmarks.statistics.serial import serial_correlation
from benchmarks.statistics.units import floor_ppm

CONFIRMATION_PAIRS = 30
LEAST_PAIRS = 24
ERROR = Fraction(1, 20)
# A confirmation repeated at the contributor's wish (a dispute) may not be a second draw from the same urn: it is
# bounded over all pairs, at this error. First and repeated confirmations together miss in at most 6 % of cases.
REPEATED_ERROR = Fraction(1, 100)
# Above so much rank correlation of neighbours the bound is another rank lower, of 30 pairs; with the root of their
# number for more. Found by simulation: the least that keeps 5 % for AR(1) noise of 0.3 and of 0.5.
CORRELATION_STEPS = (Fraction(1, 10), Fraction(1, 5), Fraction(7, 20))


@dataclass(frozen=True, slots=True)
class ConfirmationResult:
    """Bound and estimate in millionths of a nat, rounded down.

    `confidence` is the bound's exact one for independent pairs; `correlation` the rank correlation of neighbours.
    """

    bound_log_ppm: int
    estimate_log_ppm: int
    pairs: int
    rank: int
    confidence: Fraction
    correlation: Fraction

    @property
    def is_gain(self) -> bool:
        """True if there is anything to award."""
        return self.bound_log_ppm > 0


def confirmation_bound(log_ratios: Sequence[float], error: Fraction = ERROR) -> ConfirmationResult:
    """The result of a confirmation's pairs in the order measured, ln(base time / candidate time) each, in nats.

    Raises ValueError for fewer than 24 pairs or values that are not finite.
    """
    count = len(log_ratios)
    if count < LEAST_PAIRS:
        raise ValueError(f"a confirmation has at least {LEAST_PAIRS} pairs, not {count}")
    if not all(map(math.isfinite, log_ratios)):
        raise ValueError("a log ratio is not finite")
    ordered = sorted(log_ratios)
    correlation = serial_correlation(log_ratios)
    rank = bound_rank(count, correlation, error)
    return ConfirmationResult(
        bound_log_ppm=floor_ppm(ordered[rank - 1]),
        estimate_log_ppm=floor_ppm(median(ordered)),
        pairs=count,
        rank=rank,
        confidence=1 - tail_half(count, count - rank + 1),
        correlation=correlation,
    )


def bound_rank(count: int, correlation: Fraction, error: Fraction = ERROR) -> int:
    """Rank of the bound among `count` ordered pairs; the first at least. Raises ValueError where none can be."""
    rank = lower_bound_rank(count, error)
    if rank is None:
        raise ValueError(f"{count} pairs have no bound at an error of {error}")
    steps = sum(correlation > step for step in CORRELATION_STEPS)
    # The count's spread grows with the root of the number of pairs: round(steps x sqrt(count / 30)) in whole numbers.
    lower = math.isqrt(4 * steps**2 * count // CONFIRMATION_PAIRS)
    return max(1, rank - (lower + 1) // 2)


def repeated_confirmation(runs: Sequence[Sequence[float]]) -> ConfirmationResult:
    """Bound over all confirmations of one candidate together: the pairs of each run, in the order measured.

    One run is the usual case. More are pooled, never chosen from: a bad one is not forgotten, a lucky one is diluted.
    """
    if not runs:
        raise ValueError("there is no confirmation")
    pairs = [value for run in runs for value in run]
    return confirmation_bound(pairs, ERROR if len(runs) == 1 else REPEATED_ERROR)
