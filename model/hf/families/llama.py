"""Llama 1 to 3 and the many dense models in its format."""

from __future__ import annotations

from typing import Final

from model.hf.config.fields import Divisible, Field
from model.hf.config.heads import HeadWidth
from model.hf.config.rope import Rope
from model.hf.families.family import ATTENTION, DENSE, NORMS, OUTPUT_BIAS, QKV_BIASES, SIZES, Family

LLAMA: Final = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    rules=(
        *SIZES,
        HeadWidth(),
        Divisible("d_model", "n_heads"),
        Rope(),
        Field("intermediate_size", "d_ff"),
        Field("attention_bias", ("qkv_bias", "output_bias"), bool, default=False),
        Field("mlp_bias", "ffn_bias", bool, default=False),
    ),
    names={
        **NORMS,
        **ATTENTION,
        **QKV_BIASES,
        **OUTPUT_BIAS,
        **DENSE,
        "ffn.b_gate": "mlp.gate_proj.bias",
        "ffn.b_up": "mlp.up_proj.bias",
        "ffn.b_down": "mlp.down_proj.bias",
    },
)
