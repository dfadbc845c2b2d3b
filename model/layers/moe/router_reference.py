"""Reference for `model/layers/moe/router_fused.py`: scores and weights, written for reading and not for speed."""

from __future__ import annotations

from torch import Tensor

from model.config import MoEConfig

TINY = 1e-20  # DeepSeek-V3's guard against a division by zero: all sigmoids of a token may underflow


def scores(logits_TE: Tensor, config: MoEConfig) -> Tensor:
    """Softmax or sigmoid of the logits: [T, E]."""
    return logits_TE.softmax(-1) if config.gate == "softmax" else logits_TE.sigmoid()


def weights(chosen_TK: Tensor, config: MoEConfig) -> Tensor:
    """Weights of the chosen experts' outputs, from their scores [T, K]."""
    if config.normalise_top_k:
        chosen_TK = chosen_TK / (chosen_TK.sum(-1, keepdim=True) + guard(config))
    return chosen_TK if config.routed_scale == 1 else chosen_TK * config.routed_scale


def guard(config: MoEConfig) -> float:
    """Guard against a division by zero in the weights, which softmax's scores do not need."""
    return 0.0 if config.gate == "softmax" else TINY
