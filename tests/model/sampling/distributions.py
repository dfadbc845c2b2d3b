"""Whether counts were drawn from given probabilities: Pearson's chi-square test, for draws with fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

LEAST_EXPECTED = 5.0  # rarer outcomes are counted together


def chi_square_deviations(drawn: Iterable[int], probabilities: Sequence[float]) -> float:
    """How many standard deviations the statistic lies above its mean: beyond 5 hardly ever happens by chance."""
    p = np.asarray(probabilities, np.float64)
    p = p / p.sum()
    counts = np.bincount(np.fromiter(drawn, np.int64), minlength=p.size)
    assert counts.size == p.size, "something was drawn that does not exist"
    assert not counts[p == 0].any(), "something impossible was drawn"
    expected = p * counts.sum()
    is_common = expected >= LEAST_EXPECTED
    found, wanted = counts[is_common].astype(np.float64), expected[is_common]
    if (rest := expected[~is_common].sum()) > 0.1:
        found, wanted = np.append(found, counts[~is_common].sum()), np.append(wanted, rest)
    freedom = wanted.size - 1
    assert freedom > 0, "too few draws, or nothing to choose from"
    statistic = float(((found - wanted) ** 2 / wanted).sum())
    return (statistic - freedom) / math.sqrt(2 * freedom)
