"""The dense SwiGLU feed-forward (Shazeer 2020, arXiv:2002.05202), also used for merged shared experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """w_down(silu(w_gate x) * w_up x). Weights: w_gate, w_up [F, D], w_down [D, F]; no biases."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(d_ff, d_model))
        self.w_up = nn.Parameter(torch.empty(d_ff, d_model))
        self.w_down = nn.Parameter(torch.empty(d_model, d_ff))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.w_gate, self.w_up, self.w_down):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.silu(F.linear(x, self.w_gate)) * F.linear(x, self.w_up), self.w_down)
