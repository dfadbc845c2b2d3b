"""Auxiliary losses on a router's scores, added in the backward pass without a second output of every layer.

A layer's value passes through `attach` unchanged; in the backward pass `attach` hands its loss the gradient that it
would have had as a term of the total loss. So forward signatures stay simple, and pipelines, activation checkpointing
and shared layers need no code for auxiliary losses.

The losses are means over the tokens of one forward pass on one rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.config import MoEConfig
from model.layers.moe.router import Scores
from model.layers.moe.router_reference import TINY

LOSSES = ("switch", "sequence", "z")


def loss_weights(config: MoEConfig) -> dict[str, float]:
    """The auxiliary losses that have a weight above zero, by name."""
    weights = (config.switch_loss, config.sequence_loss, config.z_loss)
    return {name: weight for name, weight in zip(LOSSES, weights, strict=True) if weight > 0}


def auxiliary_losses(
    config: MoEConfig,
    scores: Scores,
    experts_TK: Tensor,
    n_sequences: int,
    is_token_T: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of `LOSSES` that have a weight in `config`, as unweighted scalars.

    `experts_TK` is the choice by the scores alone, without a balancing bias, as in DeepSeek-V3's formulas.
    The T positions are `n_sequences` of equal length, one after the other; bool `is_token_T` is true for
    tokens; padding is left out of every mean.
    """
    weights = loss_weights(config)
    losses: dict[str, Tensor] = {}
    if "switch" in weights or "sequence" in weights:
        share_TE = scores.scores_TE
        if config.gate == "sigmoid":
            share_TE = share_TE / (share_TE.sum(-1, keepdim=True) + TINY)
        if "switch" in weights:
            losses["switch"] = balance_loss(share_TE, experts_TK, 1, is_token_T)
        if "sequence" in weights:
            losses["sequence"] = balance_loss(share_TE, experts_TK, n_sequences, is_token_T)
    if "z" in weights:
        losses["z"] = router_z_loss(scores.logits_TE, is_token_T)
    return losses


def weighted_sum(config: MoEConfig, losses: dict[str, Tensor]) -> Tensor:
    """Weighted sum of the results of `auxiliary_losses`, their term of the training loss; a scalar."""
    weights = loss_weights(config)
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def balance_loss(
    share_TE: Tensor, experts_TK: Tensor, n_sequences: int, is_token_T: Tensor | None = None
) -> Tensor:
    """Load-balance loss, E * sum over experts of (share of choices * mean score): 1 if both are even. A scalar.

    Over the whole batch (`n_sequences` 1) Switch Transformer's loss (arXiv:2101.03961, eq. 4), for K choices as in
    GShard's descendants divided by K; as the mean over sequences DeepSeek-V3's (arXiv:2412.19437, eq. 17-20).
    `share_TE` are scores that sum to one for each token. Only they get a gradient. Padding does not count,
    nor does a sequence of padding alone.
    """
    (n_positions, n_experts), n_sequences = share_TE.shape, max(n_sequences, 1)
    n_choices = max(experts_TK.shape[1], 1)
    chosen_BN = experts_TK.reshape(n_sequences, -1)
    ones_BN = torch.ones_like(chosen_BN, dtype=share_TE.dtype)
    if is_token_T is None:
        n_tokens_B1 = share_TE.new_full((n_sequences, 1), n_positions // n_sequences)
    else:
        is_token_T1 = is_token_T.to(share_TE.dtype)[:, None]
        share_TE = share_TE * is_token_T1
        ones_BN = ones_BN * is_token_T1.expand_as(experts_TK).reshape(n_sequences, -1)
        n_tokens_B1 = is_token_T1.reshape(n_sequences, -1).sum(1, keepdim=True)
    count_BE = share_TE.new_zeros(n_sequences, n_experts).scatter_add_(1, chosen_BN, ones_BN)
    sum_BE = share_TE.reshape(n_sequences, -1, n_experts).sum(1)
    per_token_B1 = n_tokens_B1.clamp_min(1)
    loss_B = n_experts * (count_BE / (n_choices * per_token_B1) * sum_BE / per_token_B1).sum(-1)
    return loss_B.sum() / (n_tokens_B1 > 0).sum().clamp_min(1)


def router_z_loss(logits_TE: Tensor, is_token_T: Tensor | None = None) -> Tensor:
    """Mean over tokens of the squared log-sum-exp of the logits (ST-MoE, arXiv:2202.08906, eq. 5). A scalar."""
    squares_T = logits_TE.logsumexp(-1).square()
    if is_token_T is None:
        return squares_T.sum() / max(len(logits_TE), 1)
    return (squares_T * is_token_T).sum() / is_token_T.sum().clamp_min(1)


def attach(carrier: Tensor, loss: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Return `carrier` unchanged. When its gradient is computed, `loss` (a scalar) gets the gradient `scale`.

    Second derivatives raise RuntimeError, since a second pass would add the loss again.
    """
    apply: Callable[..., Tensor] = _Attach.apply
    return apply(carrier, loss, scale)


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, carrier: Tensor, loss: Tensor, scale: float | Tensor) -> Tensor:
        ctx.scale, ctx.dtype, ctx.device = scale, loss.dtype, loss.device
        return carrier.view_as(carrier)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "attached auxiliary losses have no second derivatives: set MoEConfig's weights of them to 0, or put the "
                "model into evaluation mode"
            )
        return grad, torch.as_tensor(ctx.scale, dtype=ctx.dtype, device=ctx.device), None
