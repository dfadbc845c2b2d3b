"""Qwen2-MoE (gated shared expert, biases) and Qwen3-MoE (norms on queries and keys); some layers may be dense."""

from __future__ import annotations

from typing import Final

from model.hf.config.fields import MOST_EXPERTS, Always, Field, Rule
from model.hf.config.heads import HeadWidth
from model.hf.config.layer_kinds import OneWindow, SparseStep, WindowPerLayer
from model.hf.config.rope import Rope
from model.hf.config.shared_experts import SharedWidth
from model.hf.families.family import (
    ATTENTION,
    DENSE,
    EXPERTS,
    NORMS,
    OUTPUT_BIAS,
    QK_NORMS,
    QKV_BIASES,
    SIZES,
    Family,
)

_EXPERTS: tuple[Rule, ...] = (
    SparseStep(),
    Field("intermediate_size", "d_ff"),
    Field("hidden_size", "moe.d_model"),
    Field("moe_intermediate_size", "moe.d_expert"),
    Field(("num_experts", "num_local_experts"), "moe.n_experts", most=MOST_EXPERTS),
    Field("num_experts_per_tok", "moe.top_k"),
    Field("norm_topk_prob", "moe.normalise_top_k", bool, default=False),
    Always("moe.gate", "softmax"),
)

QWEN2_MOE: Final = Family(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    rules=(
        *SIZES,
        HeadWidth(),
        Rope(),
        WindowPerLayer(),
        *_EXPERTS,
        Field("qkv_bias", "qkv_bias", bool, default=True),
        SharedWidth(),
        Always("moe.gate_shared", True),
    ),
    names={
        **NORMS,
        **ATTENTION,
        **QKV_BIASES,
        **DENSE,
        **EXPERTS,
        "ffn.shared.w_gate": "mlp.shared_expert.gate_proj.weight",
        "ffn.shared.w_up": "mlp.shared_expert.up_proj.weight",
        "ffn.shared.w_down": "mlp.shared_expert.down_proj.weight",
        "ffn.shared_gate": "mlp.shared_expert_gate.weight",
    },
)

QWEN3_MOE: Final = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    rules=(
        *SIZES,
        HeadWidth(),
        Rope(),
        OneWindow(switch="use_sliding_window"),
        *_EXPERTS,
        Field("attention_bias", ("qkv_bias", "output_bias"), bool, default=False),
        Always("qk_norm", "head"),
    ),
    names={**NORMS, **ATTENTION, **QKV_BIASES, **OUTPUT_BIAS, **QK_NORMS, **DENSE, **EXPERTS},
)
