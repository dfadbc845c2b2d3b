"""Named models of the stack. Does not import torch."""

from __future__ import annotations

from model.config import ModelConfig, MoEConfig

_SMOLLM2 = ModelConfig(
    name="smollm2",
    vocab_size=49_152,
    d_model=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    d_head=64,
    d_ff=1536,
    max_context=8192,
    rope_theta=100_000.0,
)

PRESETS: dict[str, ModelConfig] = {
    # Random weights over bytes: for tests of everything around a model. Its answers mean nothing.
    "tiny": ModelConfig(
        name="tiny",
        vocab_size=261,
        d_model=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_head=16,
        d_ff=128,
        max_context=512,
        tie_embeddings=False,
        moe=MoEConfig(d_model=64, d_expert=32, n_experts=8, top_k=2, n_shared=1),
    ),
    "smollm2": _SMOLLM2,  # SmolLM2-135M-Instruct, dense
}
