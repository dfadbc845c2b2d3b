"""Training losses on logits, in fp32 or better.

Targets are token ids [B, S]; `IGNORED` marks a position that is not scored (padding, the end of a document, a prompt).
Losses are means over the scored positions, or sums divided by `n_targets`: over several micro-batches the number of
targets of all of them together, so that each target weighs the same. Without any target the loss is zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.batches.batch import IGNORED


def next_token_loss(logits_BSV: Tensor, tokens_BS: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each token given those before it, in fp32; scalar.

    The logits at position i are for token i + 1: the last ones of a sequence are not used.
    """
    return F.cross_entropy(logits_BSV[:, :-1].float().flatten(0, 1), tokens_BS[:, 1:].flatten())


def next_token_targets(tokens_BS: Tensor) -> Tensor:
    """The token that follows each position, [B, S]; `IGNORED` at the last one."""
    return F.pad(tokens_BS[:, 1:], (0, 1), value=IGNORED)


def target_loss(
    logits_BSV: Tensor,
    targets_BS: Tensor,
    *,
    n_targets: int | Tensor | None = None,
    z_weight: float = 0.0,
) -> Tensor:
    """Cross-entropy in nats of `targets_BS`, position by position without a shift; scalar.

    `z_weight` adds that much of the squared log-sum-exp of the logits, which keeps them from drifting
    (PaLM, arXiv:2204.02311, section 5: 1e-4).
    """
    logits_NV, targets_N = wide(logits_BSV).flatten(0, 1), targets_BS.flatten()
    summed = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
    if z_weight:
        squares_N = logits_NV.logsumexp(-1).square()
        summed = summed + z_weight * squares_N.masked_fill(targets_N == IGNORED, 0.0).sum()
    return summed / (count_targets(targets_BS) if n_targets is None else n_targets)


def mtp_targets(targets_BS: Tensor, distance: int, documents_BS: Tensor | None = None) -> Tensor:
    """The targets of predictions `distance` tokens beyond the next one, from those of the next token.

    `IGNORED` where the row ends before, and where `documents_BS` (ids of packed documents) has another document
    there: what a position attends to says nothing about it.
    """
    targets_BS, ended = targets_BS[:, distance:], min(distance, targets_BS.shape[1])
    if documents_BS is not None:
        is_same_BS = documents_BS[:, distance:] == documents_BS[:, : documents_BS.shape[1] - ended]
        targets_BS = targets_BS.masked_fill(~is_same_BS, IGNORED)
    return F.pad(targets_BS, (0, ended), value=IGNORED)


def count_targets(targets_BS: Tensor) -> Tensor:
    """Number of scored positions, at least 1; an integer scalar on the targets' device."""
    return (targets_BS != IGNORED).sum().clamp(min=1)


def wide(x: Tensor) -> Tensor:
    """Cast to fp32; double stays."""
    return x if x.dtype is torch.float64 else x.float()
