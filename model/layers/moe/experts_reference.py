"""Reference for `model/layers/moe/experts.py`: the routed experts' sum, written for reading and not for speed.

Every expert computes every token; tokens that did not choose it get weight zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def apply_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
) -> Tensor:
    """Sum over a token's chosen experts of weight * SwiGLU_e(x). Returns [T, D] in x's dtype, summed in fp32."""
    y_TD = torch.zeros_like(x_TD, dtype=torch.float32)
    for e, (w_gate_FD, w_up_FD, w_down_DF) in enumerate(zip(w_gate_EFD, w_up_EFD, w_down_EDF, strict=True)):
        weight_T = (weights_TK * (experts_TK == e)).sum(-1)
        h_TF = F.silu(F.linear(x_TD, w_gate_FD)) * F.linear(x_TD, w_up_FD)
        y_TD = y_TD + weight_T[:, None] * F.linear(h_TF, w_down_DF)
    return y_TD.to(x_TD.dtype)


def gradients(
    tensors: tuple[Tensor, ...], grad_y_TD: Tensor, is_needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of `apply_experts(*tensors)` with regard to those that need one; they are differentiable."""
    inputs = [tensor for tensor, needed in zip(tensors, is_needed, strict=True) if needed]
    found = iter(torch.autograd.grad(apply_experts(*tensors), inputs, grad_y_TD, create_graph=True))
    return tuple(next(found) if needed else None for needed in is_needed)
