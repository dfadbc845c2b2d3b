"""Floating-point operations of a model's training, counted from its shape.

The field's convention (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): a parameter that multiplies a token costs
two operations forward and four backward, attention the products of queries with keys and of weights with values;
softmax, norms and what activation checkpointing computes twice do not count. So the ratio to a device's peak is MFU,
not hardware utilisation. Does not import torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from model.config import ModelConfig

FORWARD_AND_BACKWARD = 6  # operations per multiplying parameter and token


@dataclass(frozen=True)
class TrainingCost:
    """Floating-point operations of one forward and backward pass."""

    per_token: int  # all matrices that multiply a token
    per_pair: int  # one query looking at one key in one layer
    layers: Mapping[int | None, int]  # number of layers with each sliding window; None: no window

    def flops(self, tokens: int, pairs: Mapping[int | None, int]) -> int:
        """Operations of `tokens` tokens with so many (query, key) pairs in layers of each window."""
        attention = sum(count * pairs[window] for window, count in self.layers.items())
        return self.per_token * tokens + self.per_pair * attention


def training_cost(config: ModelConfig) -> TrainingCost:
    """Cost of a model in training, its MTP modules included."""
    lookup = 0 if config.tie_embeddings else config.vocab_size * config.d_model  # a read, no product
    ahead = config.n_ahead * _mtp_parameters(config)
    windows = [config.window(layer) for layer in range(config.n_layers)]
    windows += [config.window(config.n_layers - 1)] * config.n_ahead
    return TrainingCost(
        per_token=FORWARD_AND_BACKWARD * (config.active_parameters - lookup + ahead),
        per_pair=FORWARD_AND_BACKWARD * _pair_width(config),
        layers=Counter(windows),
    )


def causal_pairs(length: int, window: int | None = None) -> int:
    """(query, key) pairs of one document: each token sees itself and those before it, at most `window` in all."""
    if window is None or window >= length:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window


def _pair_width(config: ModelConfig) -> int:
    """Multiply-adds of one (query, key) pair in one layer: all heads, scores and values."""
    if config.latent is not None:
        return config.n_heads * (config.latent.d_nope + config.latent.d_rope + config.latent.d_value)
    return config.n_heads * 2 * config.d_head


def _mtp_parameters(config: ModelConfig) -> int:
    """Parameters by which one MTP module multiplies a token: its projection, a block and the head again."""
    if config.moe is not None and config.is_moe_layer(config.n_layers - 1):
        ffn = config.moe.active_parameters
    else:
        ffn = 3 * config.d_model * config.d_ff
    head = config.vocab_size * config.d_model
    return 2 * config.d_model**2 + config.attention_parameters + ffn + head
