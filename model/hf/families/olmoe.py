"""OLMoE: all layers have experts; norms over all heads of queries and keys at once, values may be clipped."""

from __future__ import annotations

from typing import Final

from model.hf.config.fields import MOST_EXPERTS, Always, Field, Fixed
from model.hf.config.heads import HeadWidth
from model.hf.config.rope import Rope
from model.hf.families.family import (
    ATTENTION,
    EXPERTS,
    NORMS,
    OUTPUT_BIAS,
    QK_NORMS,
    QKV_BIASES,
    SIZES,
    Family,
)

OLMOE: Final = Family(
    model_type="olmoe",
    architecture="OlmoeForCausalLM",
    rules=(
        *SIZES,
        HeadWidth(is_free=False),
        Rope(),
        Fixed("sliding_window", (None,), "this family has none", is_written=False),
        Field("attention_bias", ("qkv_bias", "output_bias"), bool, default=False),
        Field("clip_qkv", "qkv_clip", float, default=None),
        Always("qk_norm", "all"),
        Field("hidden_size", "moe.d_model"),
        Field("intermediate_size", ("moe.d_expert", "d_ff")),
        Field(("num_experts", "num_local_experts"), "moe.n_experts", most=MOST_EXPERTS),
        Field("num_experts_per_tok", "moe.top_k"),
        Field("norm_topk_prob", "moe.normalise_top_k", bool, default=False),
        Always("moe.gate", "softmax"),
    ),
    names={**NORMS, **ATTENTION, **QKV_BIASES, **OUTPUT_BIAS, **QK_NORMS, **EXPERTS},
)
