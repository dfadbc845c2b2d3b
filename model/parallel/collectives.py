"""Collectives that autograd can pass through: the conjugate pairs of tensor and expert parallelism.

A `group` of None is an axis of degree one: nothing is sent and the tensor comes back as it is. Knows nothing of
models. The pair `copy_to` and `reduce_from` is f and g of Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None


class _CopyTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _summed(grad, ctx.group), None


class _ReduceFrom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _exchanged(x_ND, sent, received, group)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchanged(grad_ND, ctx.received, ctx.sent, ctx.group), None, None, None


def copy_to(x: Tensor, group: Group) -> Tensor:
    """Into a region where each rank of `group` computes a part: x as it is; gradients are summed over the ranks."""
    return x if group is None else _CopyTo.apply(x, group)  # type: ignore[no-untyped-call]


def reduce_from(x: Tensor, group: Group) -> Tensor:
    """Out of such a region: the sum of the ranks' parts; gradients pass as they are."""
    return x if group is None else _ReduceFrom.apply(x, group)  # type: ignore[no-untyped-call]


def exchange_rows(x_ND: Tensor, sent: Sequence[int], received: Sequence[int], group: Group) -> Tensor:
    """Sends the first `sent[0]` rows to the group's first rank, the next to the second and so on.

    Returns the received rows [sum(received), D], the first rank's first. Gradients take the way back.
    """
    if group is None:
        return x_ND
    return _Exchange.apply(x_ND, sent, received, group)  # type: ignore[no-any-return, no-untyped-call]


def exchange_counts(counts_RE: Tensor, group: Group) -> Tensor:
    """Row r goes to the group's rank r; returns what the ranks sent here, one row per rank. Integers, no gradient."""
    if group is None:
        return counts_RE
    received_RE = torch.empty_like(counts_RE)
    dist.all_to_all_single(received_RE, counts_RE.contiguous(), group=group)
    return received_RE


def sum_over(x: Tensor, group: Group) -> Tensor:
    """Adds `x` up over the ranks in place, without gradient; returns it."""
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def maximum_over(x: Tensor, group: Group) -> Tensor:
    """The element-wise maximum over the ranks, in place, without gradient; returns x."""
    if group is not None:
        dist.all_reduce(x, op=dist.ReduceOp.MAX, group=group)
    return x


def _summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _exchanged(
    x_ND: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup
) -> Tensor:
    y_ND = x_ND.new_empty(sum(received), *x_ND.shape[1:])
    dist.all_to_all_single(y_ND, x_ND.contiguous(), list(received), list(sent), group=group)
    return y_ND
