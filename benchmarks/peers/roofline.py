"""The least that a model's work costs: operations of a prompt, bytes of a decode step, operations of a training step.

Counted from shapes, by the field's conventions (`model/training/report/flops.py`). What is not needed is not counted: a prompt's
head is computed for its last token alone. Does not import torch.
"""

from __future__ import annotations

from model.config import ModelConfig
from model.training.report.flops import causal_pairs, training_cost

#: Bytes of one weight as each format keeps it; for 32 weights q8_0 has a 16-bit scale and int4 that and a least number,
#: int8 has one scale for an output row.
WEIGHT_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "f16": 2.0,
    "int8": 1.0,
    "int8-dynamic": 1.0,
    "q8_0": 34 / 32,
    "int4": 20 / 32,
}
HEAD_BYTES = {**WEIGHT_BYTES, "int4": 1.0}  # where the head has another format
PASSES = 3  # a training step is counted as a forward and twice that for the backward pass


def prefill_flops(config: ModelConfig, n_tokens: int) -> float:
    """Floating-point operations that a prompt's first token takes."""
    cost = training_cost(config)
    head = 2 * config.vocab_size * config.d_model
    pairs = {window: causal_pairs(n_tokens, window) for window in cost.layers}
    return cost.flops(n_tokens, pairs) / PASSES - head * (n_tokens - 1)


def training_flops(config: ModelConfig, n_rows: int, row_tokens: int) -> float:
    """Floating-point operations of a forward and backward pass over rows that are one document each."""
    cost = training_cost(config)
    pairs = {window: n_rows * causal_pairs(row_tokens, window) for window in cost.layers}
    return float(cost.flops(n_rows * row_tokens, pairs))


def weights_read(config: ModelConfig, weights: str) -> float:
    """Bytes of the weights that one token's decode step multiplies with. Raises KeyError for an unknown format."""
    head = config.vocab_size * config.d_model
    lookup = 0 if config.tie_embeddings else head  # one row of it is read
    return (config.active_parameters - lookup - head) * WEIGHT_BYTES[weights] + head * HEAD_BYTES[weights]


def cache_read(config: ModelConfig, context: float, *, element_bytes: int = 2) -> float:
    """Bytes of the keys and values that one token attends to, without windows. Latent attention is not counted here.

    Raises ValueError for latent attention.
    """
    if config.latent is not None:
        raise ValueError("the cache of latent attention is not counted here")
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * context * element_bytes
