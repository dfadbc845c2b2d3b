"""Expert load: the number of (token, choice) pairs of each expert."""

from __future__ import annotations

import torch
from torch import Tensor


def expert_load(experts: Tensor, n_experts: int) -> Tensor:
    """Count pairs per expert, int64 [E], of chosen expert ids in any shape.

    The host does not wait for the device, unlike with `torch.bincount`, which needs the largest id.
    """
    chosen_N = experts.flatten()
    return chosen_N.new_zeros(n_experts).scatter_add_(0, chosen_N, torch.ones_like(chosen_N))
