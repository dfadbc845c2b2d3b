"""Cross-entropy from whole logits: what `chunked_target_loss` must equal."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from model.data.batches.batch import IGNORED
from model.training.losses.cross_entropy import count_targets, wide


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
