"""Exact estimate and bounds of a centre from Walsh averages, for values that scatter evenly to both sides of it.

A Walsh average is the mean of two of the values, or one of them. Their median is the estimate of Hodges & Lehmann, Annals
of Mathematical Statistics 34 (1963), and the order statistics among them are the bounds that belong to Wilcoxon's signed
rank test. Nothing is assumed but independence and symmetry: heavy tails cost width, not error. Whole numbers only.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement


def walsh_sums(values: Sequence[int]) -> list[int]:
    """Twice each Walsh average, ascending."""
    return sorted(first + second for first, second in combinations_with_replacement(values, 2))


def centre(sums: Sequence[int]) -> int:
    """The estimate, rounded down, from `walsh_sums`. Raises ValueError for none."""
    if not sums:
        raise ValueError("the centre of nothing")
    half = len(sums) // 2
    middle = 2 * sums[half] if len(sums) % 2 else sums[half - 1] + sums[half]  # four times the estimate
    return middle // 4


@cache
def bound_rank(count: int, error: Fraction) -> int | None:
    """Rank of the Walsh average that exceeds the centre of `count` values with probability <= `error`; None if none does.

    The k-th smallest exceeds it exactly when at most k - 1 of them are below it, and how many are is distributed as the
    signed rank statistic: the sum of a random subset of 1 .. count.
    """
    ways = [1]  # ways[s]: subsets with sum s
    for rank in range(1, count + 1):
        longer = ways + [0] * rank
        for total, number in enumerate(ways):
            longer[total + rank] += number
        ways = longer
    rank, spent = 0, 0
    while rank < len(ways) and Fraction(spent + ways[rank], 2**count) <= error:
        spent += ways[rank]
        rank += 1
    return rank or None
