"""The training loss. Knows nothing of models."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def next_token_loss(logits_BSV: Tensor, tokens_BS: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each token given those before it, in fp32; scalar.

    The logits at position i are for token i + 1: the last ones of a sequence are not used.
    """
    return F.cross_entropy(logits_BSV[:, :-1].float().flatten(0, 1), tokens_BS[:, 1:].flatten())
