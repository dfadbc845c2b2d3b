"""Tensor parallelism: heads, feed-forward widths and the vocabulary are split over the ranks of the `tp` axis.

Attention and feed-forwards are split by columns going in and by rows coming out (Megatron-LM, arXiv:1909.08053), so the
same modules are built for 1 / tp of the heads and widths, with stacked and plain parameters, between `enter` and
`leave` of the residual stream. torch's `parallelize_module` splits `nn.Linear`s only, which this model does not have.
Norms and routers are whole on each rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.data.batches.batch import IGNORED
from model.layers.block import Block
from model.layers.moe.layer import MoELayer
from model.parallel.collectives import Group, maximum_over, sum_over
from model.parallel.expert import ParallelExperts
from model.parallel.residual import Residual


def split_modules(block: Block, *, splits_sequence: bool = False) -> Iterator[nn.Module]:
    """The modules of a block whose outputs must be summed over the tensor parallel ranks.

    Where the stream's positions are split an MoE layer is one of them as a whole, so that its tokens are gathered once:
    all ranks route all tokens, and capacity, auxiliary losses and counted load are those of whole rows.
    """
    yield block.attention
    if isinstance(block.ffn, MoELayer) and not splits_sequence:
        if not isinstance(block.ffn.experts, ParallelExperts):  # which sum by themselves
            yield block.ffn.experts
        if block.ffn.shared is not None:
            yield block.ffn.shared
    else:
        yield block.ffn


def join_parts(module: nn.Module, residual: Residual) -> None:
    """Make `module` one rank's part of a sum: its output is summed over the ranks of `residual`.

    Its floating-point positional arguments are the same on all ranks; gradients for them are summed too.
    """
    if residual.group is None:
        return

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(residual.enter(argument) if _is_shared(argument) else argument for argument in arguments)

    def leave(_: nn.Module, __: tuple[Any, ...], y: Tensor) -> Tensor:
        return residual.leave(y)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def _is_shared(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point()


def embed(tokens_BS: Tensor, embedding_VD: Tensor, first_id: int, residual: Residual) -> Tensor:
    """Embed ids with a vocabulary split over ranks, from `first_id` on this one: [B, S] -> the stream's [B, P, D]."""
    if residual.group is None:
        return F.embedding(tokens_BS, embedding_VD)
    local_BS = tokens_BS - first_id
    is_here_BS = (local_BS >= 0) & (local_BS < embedding_VD.shape[0])
    x_BSD = F.embedding(local_BS.where(is_here_BS, 0), embedding_VD) * is_here_BS[..., None]
    return residual.leave(x_BSD)


class _CrossEntropy(torch.autograd.Function):
    """Saves the probabilities of this rank's part of the vocabulary; communicates the largest logit and the sum."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, targets_T: Tensor, first_id: int, group: Group) -> Tensor:
        largest_T = maximum_over(logits_TV.amax(-1), group)
        shifted_TV = logits_TV - largest_T[:, None]
        local_T = targets_T - first_id
        is_here_T = (local_T >= 0) & (local_T < logits_TV.shape[1])
        index_T1 = local_T.where(is_here_T, 0)[:, None]
        target_T = sum_over(shifted_TV.gather(1, index_T1)[:, 0] * is_here_T, group)
        p_TV = shifted_TV.exp_()
        total_T = sum_over(p_TV.sum(-1), group)
        p_TV /= total_T[:, None]
        is_scored_T = targets_T != IGNORED
        ctx.save_for_backward(p_TV, index_T1, is_here_T, is_scored_T)
        return ((total_T.log() - target_T) * is_scored_T).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        p_TV, index_T1, is_here_T, is_scored_T = ctx.saved_tensors
        grad_TV = p_TV.clone()
        grad_TV.scatter_add_(1, index_T1, -is_here_T[:, None].to(p_TV.dtype))
        return grad_TV * (grad * is_scored_T)[:, None], None, None, None


def cross_entropy_sum(logits_TV: Tensor, targets_T: Tensor, first_id: int, group: Group) -> Tensor:
    """Sum over the scored targets of their cross-entropy in nats, where this rank holds V of the vocabulary's logits.

    Targets are ids of the whole vocabulary, or -100 for those that are not scored. Every rank of the group gets the
    sum; logits are fp32, and only two numbers per token are communicated.
    """
    apply: Callable[..., Tensor] = _CrossEntropy.apply
    return apply(logits_TV, targets_T, first_id, group)
