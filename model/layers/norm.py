"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.layers import norm_fused, norm_reference


class RMSNorm(nn.Module):
    """RMS norm: x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in fp32."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The norm of x in `dtype`, None for the weight's."""
        dtype = dtype or self.weight.dtype
        if dtype in norm_fused.FORMATS and norm_fused.fits(x, self.weight):
            return norm_fused.normed(x, self.weight, self.eps, dtype)
        return norm_reference.normed(x, self.weight, self.eps, dtype)
