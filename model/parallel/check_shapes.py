"""Small models with everything that a mesh can split, for checks; each trains in seconds."""

from __future__ import annotations

from dataclasses import replace

from model.config import LatentConfig, ModelConfig, MoEConfig

_PLAIN = ModelConfig(
    name="small",
    vocab_size=64,
    d_model=32,
    n_layers=4,
    n_heads=4,
    n_kv_heads=4,
    d_head=8,
    d_ff=48,
    max_context=64,
)
_MOE = MoEConfig(d_model=32, d_expert=16, n_experts=8, top_k=2, n_shared=1)
SHAPES: dict[str, ModelConfig] = {
    # Tied head, one dense layer, norms and biases on queries and keys.
    "small-moe": replace(
        _PLAIN,
        name="small-moe",
        n_kv_heads=2,
        moe=_MOE,
        first_moe_layer=1,
        qk_norm="head",
        qkv_bias=True,
    ),
    # MLA, sigmoid gate in groups with a balancing bias, untied head.
    "small-latent": replace(
        _PLAIN,
        name="small-latent",
        tie_embeddings=False,
        latent=LatentConfig(kv_rank=12, d_nope=8, d_rope=4, d_value=8, q_rank=16),
        moe=replace(
            _MOE,
            top_k=3,
            n_shared=2,
            gate="sigmoid",
            gate_shared=True,
            bias_balancing=True,
            n_groups=4,
            top_groups=2,
            group_score="top2",
            sequence_loss=1e-2,
        ),
        first_moe_layer=1,
        attention_owners=(0, 0, 2, 2),
    ),
    "small-dense": replace(_PLAIN, name="small-dense", sliding_window=8, full_attention_layers=(3,)),
}
