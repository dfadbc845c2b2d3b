"""Targets of training losses, and the next-token loss on logits, in fp32 or better.

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
