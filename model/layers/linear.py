"""Linear map of torch, computed by the fastest kernel that is available."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from model.layers import linear_fused


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """`F.linear`: [..., K] -> [..., N], in autocast's format if it is on."""
    if bias_N is None and linear_fused.fits(x, weight_NK):
        return linear_fused.linear(x, weight_NK)
    return F.linear(x, weight_NK, bias_N)
