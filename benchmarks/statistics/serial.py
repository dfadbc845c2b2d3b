"""Rank correlation of neighbouring pairs: an exact test, whatever the tails look like.

Bounds on a median assume independent pairs. Noise that favours the candidate itself for several pairs in a row breaks
that, and no random order of starting undoes it; this is how it is seen.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

# With fewer values than this a correlation of neighbours says nothing.
LEAST_VALUES = 8


def midranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, 2 for the smallest; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in order[start : end + 1]:
            ranks[position] = start + end + 2  # twice the mean of start + 1 .. end + 1
        start = end + 1
    return ranks


def serial_correlation(values: Sequence[float]) -> Fraction:
    """Lag-one correlation of the ranks, 1 - RVN / 2, about zero where pairs are independent; its error is 1/sqrt(n).

    RVN is the rank version of von Neumann's ratio: Bartels, Journal of the American Statistical Association 77
    (1982). 0 for fewer than 8 values or where all are equal.
    """
    if len(values) < LEAST_VALUES:
        return Fraction(0)
    ranks = midranks(values)
    middle = len(values) + 1  # twice the mean rank
    spread = sum((rank - middle) ** 2 for rank in ranks)
    if spread == 0:
        return Fraction(0)
    steps = sum((after - before) ** 2 for before, after in pairwise(ranks))
    return 1 - Fraction(steps, 2 * spread)
