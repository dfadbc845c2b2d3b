"""The median and what is exact about it: order statistics, binomial tails, its standard error.

A bound from order statistics needs no assumption about the noise but independent pairs: each pair is above the
median with probability one half, whatever the tails and skew (see David & Nagaraja, Order Statistics, 7.1).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution (NIST/SEMATECH e-Handbook, 1.3.6.7.1)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones. Raises ValueError for none."""
    if not values:
        raise ValueError("the median of nothing")
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def standard_deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (divisor n - 1); 0.0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def standard_error_of_median(values: Sequence[float]) -> float:
    """Distribution-free standard error of the median of `values`, in their unit.

    The width of the order-statistic interval over twice its normal quantile: McKean & Schrader, "A comparison of
    methods for studentizing the sample median", Communications in Statistics B 13 (1984). 0.0 below two values.
    """
    count = len(values)
    if count < 2:
        return 0.0
    ordered = sorted(values)
    below = max(1, round((count + 1) / 2 - Z_95 * math.sqrt(count / 4)))
    return (ordered[count - below] - ordered[below - 1]) / (2 * Z_95)


@cache
def tail_half(count: int, at_least: int) -> Fraction:
    """P(X >= at_least) for X ~ Binomial(count, 1/2), exactly."""
    return Fraction(sum(math.comb(count, k) for k in range(max(at_least, 0), count + 1)), 2**count)


def lower_bound_rank(count: int, alpha: Fraction) -> int | None:
    """The largest r such that the r-th smallest of `count` values exceeds the median with probability <= alpha.

    None when even the smallest does. The r-th smallest exceeds the median exactly when at most r - 1 values lie
    below it.
    """
    rank = 0
    while rank < count and tail_half(count, count - rank) <= alpha:
        rank += 1
    return rank or None
