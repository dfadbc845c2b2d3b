"""Small decoders with the stack's conventions, for claims. Does not import torch."""

from __future__ import annotations

from typing import Any

from model.config import ModelConfig, MoEConfig

MAX_CONTEXT = 512


def decoder(
    name: str,
    vocab_size: int,
    *,
    d_model: int,
    n_layers: int,
    d_ff: int,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    moe: MoEConfig | None = None,
    **other: Any,
) -> ModelConfig:
    """Tied embeddings; as many key/value heads as heads unless `n_kv_heads` says otherwise."""
    return ModelConfig(
        name=name,
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
        d_head=d_model // n_heads,
        d_ff=d_ff,
        max_context=other.pop("max_context", MAX_CONTEXT),
        moe=moe,
        **other,
    )
