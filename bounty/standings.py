"""Standings of a series' gains: the speed of each over the series' origin, and its rank. Pure functions.

A gain's confirmed bound and estimate are about the tree before it, so the speed over the origin is the sum of the
steps, in millionths of a nat. Whole numbers only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Step:
    """One confirmed gain over the tree before it: ln(base time / candidate time) in millionths of a nat."""

    bound_log_ppm: int
    estimate_log_ppm: int

    @property
    def most_log_ppm(self) -> int:
        """Upper end of the interval: as far above the estimate as the bound is below it."""
        return max(2 * self.estimate_log_ppm - self.bound_log_ppm, self.bound_log_ppm)


@dataclass(frozen=True, slots=True)
class Standing:
    """A gain's rank, and its speed over the series' origin: lower bound and upper end of the interval."""

    rank: int
    reached_log_ppm: int
    most_log_ppm: int


def standings(steps: Sequence[Step]) -> list[Standing]:
    """One standing for each step; steps are in the order in which they were booked."""
    reached = list(accumulate(step.bound_log_ppm for step in steps))
    most = list(accumulate(step.most_log_ppm for step in steps))
    ranks = shared_ranks(list(zip(reached, most, strict=True)))
    return [Standing(*values) for values in zip(ranks, reached, most, strict=True)]


def shared_ranks(intervals: Sequence[tuple[int, int]]) -> list[int]:
    """The rank of each (low, high), the highest first. Intervals that overlap share one, also through a third.

    A rank is one more than the number of intervals that lie wholly above, so two entries of rank 1 are
    followed by rank 3.
    """
    ranks = [0] * len(intervals)
    by_height = sorted(range(len(intervals)), key=lambda place: intervals[place][1], reverse=True)
    rank, lowest = 1, math.inf  # of the group so far
    for n_above, place in enumerate(by_height):
        low, high = intervals[place]
        if n_above and high < lowest:
            rank, lowest = n_above + 1, math.inf
        lowest = min(lowest, low)
        ranks[place] = rank
    return ranks
