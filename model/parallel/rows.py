"""Gather rows of a tensor and scatter-add them: each is the other's gradient.

Both sum in a fixed order, so that a step gives the same bits each time: torch's own forms add rows of one index in any
order (the backward pass of `x[rows]` on CPUs with several threads, `index_add` on CUDA).

Shape suffixes: N rows that are taken, of R. Indices come in `parts`, none of which has the same index twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        ctx.n_rows = x_RD.shape[0]
        return x_RD[torch.cat(parts)]

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        return _added(grad_ND, parts, ctx.n_rows, grad_ND.dtype), *(None for _ in parts)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, n_rows: int, dtype: torch.dtype, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        ctx.dtype = y_ND.dtype
        return _added(y_ND, parts, n_rows, torch.float32).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        return grad_RD[torch.cat(parts)].to(ctx.dtype), None, None, *(None for _ in parts)


def take_rows(x_RD: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Gather the rows [N, D] of the parts' indices, one part after the other; gradients are summed in their dtype."""
    apply: Callable[..., Tensor] = _Take.apply
    return apply(x_RD, *parts)


def add_rows(y_ND: Tensor, parts: Sequence[Tensor], n_rows: int, dtype: torch.dtype) -> Tensor:
    """Scatter-add [N, D] to [n_rows, D] of `dtype`: the fp32 sum of the rows of each index, zero without any."""
    apply: Callable[..., Tensor] = _Add.apply
    return apply(y_ND, n_rows, dtype, *parts)


def _added(y_ND: Tensor, parts: Sequence[Tensor], n_rows: int, dtype: torch.dtype) -> Tensor:
    total_RD = y_ND.new_zeros(n_rows, *y_ND.shape[1:], dtype=dtype)
    for rows, y in zip(parts, torch.split(y_ND, [len(part) for part in parts]), strict=True):
        total_RD.index_add_(0, rows, y.to(dtype))
    return total_RD
