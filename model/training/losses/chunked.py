"""Chunked cross-entropy: projection, loss and gradient of some positions at a time, without all the logits.

With a large vocabulary the fp32 logits [B, S, V] and their gradient are the largest tensors of training. Here never
more than `chunk` rows of them exist. The gradients are computed in the forward pass, chunk by chunk, while the logits
are there, so that nothing is projected twice (as in Liger Kernel, arXiv:2410.10989, section 3.2); the backward pass
only scales them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.data.batches.batch import IGNORED
from model.layers import linear_fused
from model.layers.formats import product_dtype
from model.layers.linear import linear
from model.training.losses import cross_entropy_fused
from model.training.losses.cross_entropy import count_targets, mtp_targets, wide

CHUNK = 1024  # positions: long enough for a matrix product at full speed, 1/16 of a batch of 16,384 tokens


def chunked_target_loss(
    x_BSD: Tensor,
    head_VD: Tensor,
    targets_BS: Tensor,
    *,
    n_targets: int | Tensor | None = None,
    z_weight: float = 0.0,
    chunk: int = CHUNK,
) -> Tensor:
    """Cross-entropy in nats of the logits `F.linear(x_BSD, head_VD)` at `targets_BS`, over `n_targets`; scalar.

    `x_BSD` is the head's input (after the last norm). `z_weight` adds that much of the squared log-sum-exp of the logits,
    which keeps them from drifting (PaLM, arXiv:2204.02311, section 5: 1e-4). Under autocast the projection is in its
    format, all else in fp32. There is no second derivative. Raises ValueError for a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"a chunk holds at least one position, not {chunk}")
    divisor = count_targets(targets_BS) if n_targets is None else n_targets
    x_ND, targets_N = x_BSD.flatten(0, -2), targets_BS.flatten()
    apply: Callable[..., Tensor] = _ChunkedLoss.apply
    return apply(x_ND, head_VD, targets_N, z_weight, chunk, torch.is_grad_enabled()) / divisor


def mtp_loss(
    hidden: Sequence[Tensor],
    head_VD: Tensor,
    targets_BS: Tensor,
    *,
    documents_BS: Tensor | None = None,
    n_targets: int | Tensor | None = None,
) -> Tensor:
    """Loss of multi-token prediction (MTP): the mean over its modules (arXiv:2412.19437, eq. 24-25); scalar.

    `hidden`: [B, S, D] of each module, as `Transformer.mtp_hidden` gives them; that of module i at position p is for
    token p + i + 2. `targets_BS` are those of the next token, token p + 1 at position p (`next_token_targets`).
    Raises ValueError where there are no modules.
    """
    if not hidden:
        raise ValueError("there is no MTP loss: the model has no MTP modules (n_ahead is 0)")
    losses = [
        chunked_target_loss(
            x_BSD, head_VD, mtp_targets(targets_BS, module + 1, documents_BS), n_targets=n_targets
        )
        for module, x_BSD in enumerate(hidden)
    ]
    return torch.stack(losses).mean()


class _ChunkedLoss(torch.autograd.Function):
    """Sum of the loss over positions; C positions of a chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        z_weight: float,
        chunk: int,
        needs_gradient: bool,
    ) -> Tensor:
        device = x_ND.device.type
        format_ = product_dtype(x_ND)
        needs_x, needs_head = (needs_gradient and needed for needed in ctx.needs_input_grad[:2])
        loss = wide(x_ND.new_zeros(()))
        grad_x_ND = torch.empty_like(x_ND) if needs_x else None
        grad_head_VD: Tensor | None = None
        with torch.autocast(device, enabled=False):
            cast_head_VD = head_VD.to(format_)
            for start in range(0, len(x_ND), chunk):
                part = slice(start, start + chunk)
                x_CD, targets_C = x_ND[part].to(format_), targets_N[part]
                logits_CV = linear(x_CD, cast_head_VD)
                part_loss, grad_CV = _score(logits_CV, targets_C, z_weight, needs_x or needs_head)
                loss += part_loss
                if grad_x_ND is not None:
                    grad_x_ND[part] = _grad_x(grad_CV, x_CD, cast_head_VD)
                if needs_head:
                    grad_head_VD = _add_grad_head(grad_CV, x_CD, cast_head_VD, grad_head_VD)
        ctx.save_for_backward(grad_x_ND, grad_head_VD)
        ctx.head_dtype = head_VD.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        grad_x_ND, grad_head_VD = ctx.saved_tensors
        if grad_x_ND is not None:
            grad_x_ND = grad_x_ND * grad.to(grad_x_ND.dtype)
        if grad_head_VD is not None:
            grad_head_VD = (grad_head_VD * grad).to(ctx.head_dtype)
        return grad_x_ND, grad_head_VD, None, None, None, None


def _grad_x(grad_CV: Tensor, x_CD: Tensor, head_VD: Tensor) -> Tensor:
    if linear_fused.fits(x_CD, head_VD):
        return linear_fused.grad_input(grad_CV, head_VD)
    return grad_CV @ head_VD


def _add_grad_head(grad_CV: Tensor, x_CD: Tensor, head_VD: Tensor, sum_VD: Tensor | None) -> Tensor:
    """The gradient of these positions by the head, wide, added to that of others in its place."""
    if linear_fused.fits(x_CD, head_VD):
        return linear_fused.add_grad_weight(grad_CV, x_CD, sum_VD)
    share_VD = grad_CV.mT @ x_CD
    return wide(share_VD) if sum_VD is None else sum_VD.add_(share_VD)


def _score(
    logits_CV: Tensor, targets_C: Tensor, z_weight: float, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The summed loss of some rows and, where wanted, its gradient by the logits in their format, which are lost."""
    if cross_entropy_fused.fits(logits_CV, targets_C):
        losses_C = cross_entropy_fused.score_(
            logits_CV, targets_C, z_weight=z_weight, wants_gradient=wants_gradient
        )
        return losses_C.sum(), logits_CV
    wide_CV = wide(logits_CV)
    lse_C = wide_CV.logsumexp(-1)
    loss = _summed_loss(wide_CV, lse_C, targets_C, z_weight)
    if wants_gradient:
        logits_CV = _turn_into_gradient(wide_CV, lse_C, targets_C, z_weight).to(logits_CV.dtype)
    return loss, logits_CV


def _summed_loss(logits_CV: Tensor, lse_C: Tensor, targets_C: Tensor, z_weight: float) -> Tensor:
    is_ignored_C = targets_C == IGNORED
    target_C1 = targets_C.masked_fill(is_ignored_C, 0)[:, None]
    loss_C = lse_C - logits_CV.gather(-1, target_C1).squeeze(-1)
    if z_weight:
        loss_C = loss_C + z_weight * lse_C.square()
    return loss_C.masked_fill(is_ignored_C, 0.0).sum()


def _turn_into_gradient(logits_CV: Tensor, lse_C: Tensor, targets_C: Tensor, z_weight: float) -> Tensor:
    """Turn logits into their gradient in place: (1 + 2 z lse) * softmax - one_hot(target), 0 at ignored positions."""
    is_ignored_C = targets_C == IGNORED
    target_C1 = targets_C.masked_fill(is_ignored_C, 0)[:, None]
    grad_CV = logits_CV.sub_(lse_C[:, None]).exp_()
    if z_weight:
        grad_CV *= 1 + 2 * z_weight * lse_C[:, None]
    grad_CV.scatter_add_(-1, target_C1, grad_CV.new_full(target_C1.shape, -1.0))
    return grad_CV.masked_fill_(is_ignored_C[:, None], 0.0)
