"""The dense SwiGLU feed-forward (Shazeer 2020, arXiv:2002.05202), also used for merged shared experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.linear import linear


class SwiGLU(nn.Module):
    """SwiGLU: w_down(silu(w_gate x) * w_up x). Weights: w_gate, w_up [F, D], w_down [D, F].

    With `bias` also b_gate, b_up [F] and b_down [D].
    """

    def __init__(self, d_model: int, d_ff: int, *, bias: bool = False) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(d_ff, d_model))
        self.w_up = nn.Parameter(torch.empty(d_ff, d_model))
        self.w_down = nn.Parameter(torch.empty(d_model, d_ff))
        self.b_gate = nn.Parameter(torch.zeros(d_ff)) if bias else None
        self.b_up = nn.Parameter(torch.zeros(d_ff)) if bias else None
        self.b_down = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.w_gate, self.w_up, self.w_down):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = linear(x, self.w_gate, self.b_gate), linear(x, self.w_up, self.b_up)
        return linear(F.silu(gate) * up, self.w_down, self.b_down)
