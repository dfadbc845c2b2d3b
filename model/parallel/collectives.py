"""Collectives with gradients: the conjugate pairs of tensor and expert parallelism.

A `group` of None is an axis of degree one: nothing is sent and the tensor is returned unchanged. The pair `copy_to` and
`reduce_from` is f and g of Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053); the four that split and gather rows are
those of its sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198). Their `sizes` are the rows of each rank's
part, the first rank's first: they may differ and be 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None
MoveRows = Callable[[Tensor, Sequence[int], dist.ProcessGroup], Tensor]


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


class _Parts(torch.autograd.Function):
    """One of the row operations below; its gradient is the conjugate operation `back`."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, sizes: Sequence[int], group: dist.ProcessGroup, move: MoveRows, back: MoveRows
    ) -> Tensor:
        ctx.sizes, ctx.group, ctx.back = sizes, group, back
        return move(x_ND, sizes, group)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.back(grad_ND, ctx.sizes, ctx.group), None, None, None, None


def copy_to(x: Tensor, group: Group) -> Tensor:
    """Enter a region where each rank of `group` computes a part: x unchanged; gradients are summed over the ranks."""
    apply: Callable[..., Tensor] = _CopyTo.apply
    return x if group is None else apply(x, group)


def reduce_from(x: Tensor, group: Group) -> Tensor:
    """Leave such a region: the sum of the ranks' parts; gradients are unchanged."""
    apply: Callable[..., Tensor] = _ReduceFrom.apply
    return x if group is None else apply(x, group)


def split_to(x_ND: Tensor, sizes: Sequence[int], group: Group) -> Tensor:
    """Split rows that all ranks have: returns this rank's part; gradients are gathered."""
    return _moved(x_ND, sizes, group, _own_part, _gathered)


def gather_from(x_ND: Tensor, sizes: Sequence[int], group: Group) -> Tensor:
    """Gather the ranks' parts, for the same computation on all ranks; each rank takes its part of the gradient."""
    return _moved(x_ND, sizes, group, _gathered, _own_part)


def gather_to(x_ND: Tensor, sizes: Sequence[int], group: Group) -> Tensor:
    """As `gather_from`, but into a region where each rank computes a part: gradients are reduce-scattered."""
    return _moved(x_ND, sizes, group, _gathered, _sum_scattered)


def reduce_scatter_from(x_ND: Tensor, sizes: Sequence[int], group: Group) -> Tensor:
    """Leave such a region: this rank's rows of the sum of the ranks' parts; gradients are gathered."""
    return _moved(x_ND, sizes, group, _sum_scattered, _gathered)


def even_sizes(n_rows: int, group: Group) -> list[int]:
    """Sizes of the ranks' parts of `n_rows` rows; the first ranks have one more if they do not divide evenly."""
    n_ranks = 1 if group is None else group.size()
    return [(n_rows + n_ranks - 1 - rank) // n_ranks for rank in range(n_ranks)]


def exchange_rows(x_ND: Tensor, sent: Sequence[int], received: Sequence[int], group: Group) -> Tensor:
    """Send the first `sent[0]` rows to the group's first rank, the next to the second and so on (all-to-all).

    Returns the received rows [sum(received), D], the first rank's first. Gradients are sent back.
    """
    if group is None:
        return x_ND
    apply: Callable[..., Tensor] = _Exchange.apply
    return apply(x_ND, sent, received, group)


def exchange_counts(counts_RE: Tensor, group: Group) -> Tensor:
    """Send row r to the group's rank r; returns one row from each rank. Integers, no gradient."""
    if group is None:
        return counts_RE
    received_RE = torch.empty_like(counts_RE)
    dist.all_to_all_single(received_RE, counts_RE.contiguous(), group=group)
    return received_RE


def gather_counts(counts: Tensor, group: Group) -> Tensor:
    """All-gather: [ranks, *counts.shape], the first rank's first. Integers, no gradient."""
    if group is None:
        return counts[None]
    return _gathered(counts[None], [1] * group.size(), group)


def sum_over(x: Tensor, group: Group) -> Tensor:
    """Sum `x` over the ranks in place, without gradient; returns it."""
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def maximum_over(x: Tensor, group: Group) -> Tensor:
    """The element-wise maximum over the ranks, in place, without gradient; returns x."""
    if group is not None:
        dist.all_reduce(x, op=dist.ReduceOp.MAX, group=group)
    return x


def _moved(x_ND: Tensor, sizes: Sequence[int], group: Group, move: MoveRows, back: MoveRows) -> Tensor:
    if group is None:
        return x_ND
    apply: Callable[..., Tensor] = _Parts.apply
    return apply(x_ND, sizes, group, move, back)


def _own_part(x_ND: Tensor, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    return torch.split(x_ND, list(sizes))[group.rank()]


def _gathered(x_ND: Tensor, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    # an all-to-all of copies: all-gathers take parts of one size only
    copies_ND = x_ND.expand(len(sizes), *x_ND.shape).flatten(0, 1)
    return _exchanged(copies_ND, [x_ND.shape[0]] * len(sizes), sizes, group)


def _sum_scattered(x_ND: Tensor, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    n_own = sizes[group.rank()]
    parts_ND = _exchanged(x_ND, sizes, [n_own] * len(sizes), group)
    return parts_ND.view(len(sizes), n_own, *x_ND.shape[1:]).sum(0)


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
