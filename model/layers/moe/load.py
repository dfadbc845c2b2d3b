"""Expert load: the number of (token, choice) pairs of each expert."""

from __future__ import annotations

import torch
from torch import Tensor


def expert_load(experts: Tensor, n_experts: int) -> Tensor:
    """Pairs per expert, int64 [E], of chosen experts' numbers in any shape.

    The host does not wait for the device, as `torch.bincount` makes it to learn the largest number.
    """
    chosen_N = experts.flatten()
    return chosen_N.new_zeros(n_experts).scatter_add_(0, chosen_N, torch.ones_like(chosen_N))
