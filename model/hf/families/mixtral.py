"""Mixtral: all layers have experts, normalised softmax gate, optional sliding window in all layers."""

from __future__ import annotations

from typing import Final

from model.hf.config.fields import MOST_EXPERTS, Always, Field, TrainingOnly
from model.hf.config.heads import HeadWidth
from model.hf.config.layer_kinds import OneWindow
from model.hf.config.rope import Rope
from model.hf.families.family import ATTENTION, EXPERT, NORMS, SIZES, Family

MIXTRAL: Final = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    rules=(
        *SIZES,
        HeadWidth(),
        Rope(default_theta=1_000_000.0),
        OneWindow(),
        Field("hidden_size", "moe.d_model"),
        Field("intermediate_size", ("moe.d_expert", "d_ff")),
        Field(("num_local_experts", "num_experts"), "moe.n_experts", most=MOST_EXPERTS),
        Field("num_experts_per_tok", "moe.top_k"),
        Always("moe.gate", "softmax"),
        Always("moe.normalise_top_k", True),
        TrainingOnly("router_jitter_noise"),
    ),
    names={
        **NORMS,
        **ATTENTION,
        "ffn.router.weight": "block_sparse_moe.gate.weight",
        "ffn.experts.w_gate": f"block_sparse_moe.experts.{EXPERT}.w1.weight",
        "ffn.experts.w_down": f"block_sparse_moe.experts.{EXPERT}.w2.weight",
        "ffn.experts.w_up": f"block_sparse_moe.experts.{EXPERT}.w3.weight",
    },
)
