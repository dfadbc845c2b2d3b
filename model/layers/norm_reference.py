"""Reference for `model/layers/norm_fused.py`: norms and rotations of heads, written for reading and not for speed."""

from __future__ import annotations

import torch
from torch import Tensor

from model.layers.attention.rotary import Rotation, rotate


def normed(x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in fp32: [..., D] in `dtype`."""
    x_fp32 = x.float()
    scale = torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + eps)
    return (weight_D * (x_fp32 * scale).to(weight_D.dtype)).to(dtype)


def normed_and_turned(
    x: Tensor, weight: Tensor | None, rotation: Rotation | None, eps: float, dtype: torch.dtype
) -> Tensor:
    """Rows [..., D], or heads [..., H, C] with a rotation: normed if there is a weight, then rotated."""
    y = x.float() if weight is None else normed(x, weight, eps, torch.float32)
    return (y if rotation is None else rotate(y, rotation)).to(dtype)


def gradients(
    x: Tensor,
    weight: Tensor | None,
    rotation: Rotation | None,
    eps: float,
    grad_y: Tensor,
    is_needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `normed_and_turned` in grad_y's format with regard to x and weight, if needed; differentiable."""
    inputs = [tensor for tensor, needed in zip((x, weight), is_needed, strict=True) if needed]
    y = normed_and_turned(x, weight, rotation, eps, grad_y.dtype)
    found = iter(torch.autograd.grad(y, inputs, grad_y, create_graph=True))  # type: ignore[arg-type]
    return next(found) if is_needed[0] else None, next(found) if is_needed[1] else None
