"""Expert capacity: an expert takes a bounded number of a batch's (token, choice) pairs, the others are dropped.

Switch Transformer, arXiv:2101.03961, section 2.2. Which pairs stay: earlier tokens first. A token's experts are all
different, so its choices never compete with each other, and whether a token is dropped depends on no later token: the
model stays causal (GShard's order, all first choices before all second ones, would not). Weights are not normalised
again. Dropped pairs are not computed at all; a token that loses all its choices keeps what the shared experts and the
residual stream give it.

Shape suffixes of this file: P all (token, choice) pairs, N the sorted or the kept ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from model.config import MoEConfig
from model.layers.moe.load import expert_load

ROUNDING = 1e-9  # 1.1 * 10 is 11.000000000000002, which must not be rounded up to 12


def expert_capacity(n_tokens: int, config: MoEConfig) -> int:
    """Pairs per expert: capacity_factor * T * K / E, rounded up. Raises ValueError for a dropless configuration."""
    if config.capacity_factor is None:
        raise ValueError("a dropless layer has no capacity: set MoEConfig.capacity_factor")
    return math.ceil(config.capacity_factor * n_tokens * config.top_k / config.n_experts - ROUNDING)


def within_capacity(experts_TK: Tensor, n_experts: int, capacity: int) -> Tensor:
    """Mask of the kept pairs, bool [T, K]: of each expert the first `capacity` in the order of tokens."""
    expert_N, order_N = experts_TK.flatten().sort(stable=True)
    rows_E = expert_load(expert_N, n_experts)
    first_E = rows_E.cumsum(0) - rows_E
    place_N = torch.arange(len(expert_N), device=expert_N.device) - first_E[expert_N]
    kept_N = torch.empty_like(expert_N, dtype=torch.bool)
    kept_N[order_N] = place_N < capacity
    return kept_N.view_as(experts_TK)


def apply_within_capacity(
    experts: Callable[[Tensor, Tensor, Tensor], Tensor],
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    kept_TK: Tensor,
) -> tuple[Tensor, int]:
    """The weighted sum over the kept pairs, [T, D] in x's dtype, summed in fp32; and the number of dropped pairs.

    `experts(x_TD, weights_TK, experts_TK)` gives each token's weighted sum; here it sees one row per kept pair.
    """
    n_tokens, n_choices = experts_TK.shape
    pair_N = kept_TK.flatten().nonzero().squeeze(-1)
    n_dropped = experts_TK.numel() - len(pair_N)
    if n_dropped == 0:
        return experts(x_TD, weights_TK, experts_TK), 0
    # The experts get weights of one, so that a bf16 pair is not rounded once more than without capacity.
    ones_N1 = weights_TK.new_ones(len(pair_N), 1)
    y_ND = experts(x_TD[pair_N // n_choices], ones_N1, experts_TK.flatten()[pair_N, None])
    weighted_ND = y_ND * weights_TK.flatten()[pair_N, None]
    y_PD = weighted_ND.new_zeros(experts_TK.numel(), x_TD.shape[1]).index_copy(0, pair_N, weighted_ND)
    return y_PD.view(n_tokens, n_choices, -1).sum(1).to(x_TD.dtype), n_dropped
