"""Length-bucketed batches under a token budget, for training and evaluation without packing.

Plans with numbers only. Sequences of similar length share a batch, which is as wide as its longest and holds as many
sequences as fit the budget: short ones make tall batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bucket(lengths: Sequence[int] | NDArray[np.int64], budget: int, *, multiple: int = 1) -> list[list[int]]:
    """Batches as lists of indices into `lengths`, shortest first; every index once.

    A batch's width times its height is at most `budget` positions, the width being its longest length rounded up to
    `multiple`. Raises ValueError for a length below 1 or one that is wider than the budget.
    """
    lengths_N = np.asarray(lengths, dtype=np.int64)
    widths_N = -(-lengths_N // multiple) * multiple
    if lengths_N.size and (lengths_N.min() < 1 or widths_N.max() > budget):
        raise ValueError(f"lengths must be between 1 and the budget of {budget} tokens: cut documents first")
    batches: list[list[int]] = []
    shortest_first = np.argsort(lengths_N, kind="stable")
    for index, width in zip(shortest_first.tolist(), widths_N[shortest_first].tolist(), strict=True):
        if not batches or (len(batches[-1]) + 1) * width > budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def cells(
    lengths: Sequence[int] | NDArray[np.int64], batches: Sequence[Sequence[int]], multiple: int = 1
) -> int:
    """Number of positions of padded batches: each is as wide as its longest sequence, rounded up to `multiple`."""
    lengths_N = np.asarray(lengths, dtype=np.int64)
    return sum(-(-int(lengths_N[list(batch)].max()) // multiple) * multiple * len(batch) for batch in batches)
