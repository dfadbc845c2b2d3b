"""The batch that both sides of a training step get: rows of one document each, without padding or packing.

Runs in the children only.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

SKEW = 3  # a uniform draw to this power: few ids are frequent, most are rare


def tokens(vocabulary: int, n_rows: int, row_tokens: int, seed: str) -> Tensor:
    """Token ids [B, S], unevenly spread as those of text are; the same in every process."""
    rng = random.Random(seed)
    ids = [int(vocabulary * rng.random() ** SKEW) for _ in range(n_rows * row_tokens)]
    return torch.tensor(ids).view(n_rows, row_tokens)
