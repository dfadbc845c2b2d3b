"""DeepSeek-V2 (softmax gate, best-expert groups) and DeepSeek-V3 (sigmoid gate, bias balancing, top-two groups).

Both have MLA, leading dense layers and shared experts. The published V2 code can normalise the chosen
weights (`norm_topk_prob`) and transformers' cannot, so a V2 that asks for it is refused; no published one does.
Published V3 weights end with an MTP module, as a further layer; it is left out, as in transformers: it reads the hidden
state after the last norm, and ours the one before.
"""

from __future__ import annotations

from typing import Final

from model.hf.config.fields import MOST_EXPERTS, Always, Divisible, Field, Fixed, Rule, Written
from model.hf.config.groups import BestExpertGroups, TopTwoGroups
from model.hf.config.heads import AllHeads
from model.hf.config.layer_kinds import LeadingDense
from model.hf.config.rope import Rope
from model.hf.config.shared_experts import SharedCount
from model.hf.families.family import DENSE, EXPERTS, NORMS, OUTPUT_BIAS, SIZES, Family

_COMMON: tuple[Rule, ...] = (
    *SIZES,
    AllHeads(),
    Rope(scales_softmax=True),
    Field("kv_lora_rank", "latent.kv_rank"),
    Field("q_lora_rank", "latent.q_rank", is_optional=True),
    Field("qk_nope_head_dim", "latent.d_nope"),
    Field("qk_rope_head_dim", ("latent.d_rope", "d_head")),
    Field("v_head_dim", "latent.d_value"),
    Field("attention_bias", ("qkv_bias", "output_bias"), bool, default=False),
    Field("intermediate_size", "d_ff"),
    Fixed("moe_layer_freq", (1,), "all layers after the leading dense ones have experts", is_written=False),
    Field("hidden_size", "moe.d_model"),
    Field("moe_intermediate_size", "moe.d_expert"),
    Field("num_experts_per_tok", "moe.top_k"),
    SharedCount(),
)

_NAMES = {
    **NORMS,
    "attention.w_q": "self_attn.q_proj.weight",
    "attention.w_q_down": "self_attn.q_a_proj.weight",
    "attention.b_q_down": "self_attn.q_a_proj.bias",
    "attention.q_norm.weight": "self_attn.q_a_layernorm.weight",
    "attention.w_q_up": "self_attn.q_b_proj.weight",
    "attention.w_kv_down": "self_attn.kv_a_proj_with_mqa.weight",
    "attention.b_kv_down": "self_attn.kv_a_proj_with_mqa.bias",
    "attention.kv_norm.weight": "self_attn.kv_a_layernorm.weight",
    "attention.w_kv_up": "self_attn.kv_b_proj.weight",
    "attention.w_o": "self_attn.o_proj.weight",
    **OUTPUT_BIAS,
    **DENSE,
    **EXPERTS,
    "ffn.shared.w_gate": "mlp.shared_experts.gate_proj.weight",
    "ffn.shared.w_up": "mlp.shared_experts.up_proj.weight",
    "ffn.shared.w_down": "mlp.shared_experts.down_proj.weight",
}

DEEPSEEK_V2: Final = Family(
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    rules=(
        *_COMMON,
        LeadingDense(default=0),
        Divisible("d_model", "n_heads"),
        Always("rope_interleaved", True),
        Field(("n_routed_experts", "num_experts"), "moe.n_experts", most=MOST_EXPERTS),
        Field("routed_scaling_factor", "moe.routed_scale", float, default=1.0),
        BestExpertGroups(),
        Always("moe.gate", "softmax"),
        Always("moe.normalise_top_k", False),
        Fixed("norm_topk_prob", (False,), "transformers does not normalise in this family, others may"),
        Fixed("scoring_func", ("softmax",), "the family's gate is softmax", is_written=False),
        Fixed("mlp_bias", (False,), "experts have no biases here"),
    ),
    names=_NAMES,
)

DEEPSEEK_V3: Final = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    rules=(
        *_COMMON,
        LeadingDense(default=3),
        Field("rope_interleave", "rope_interleaved", bool, default=True),
        Field(("n_routed_experts", "num_local_experts"), "moe.n_experts", most=MOST_EXPERTS),
        Field("routed_scaling_factor", "moe.routed_scale", float, default=2.5),
        TopTwoGroups(),
        Always("moe.gate", "sigmoid"),
        Always("moe.bias_balancing", True),
        Field("norm_topk_prob", "moe.normalise_top_k", bool, default=True),
        Fixed("topk_method", ("noaux_tc",), "the family's choice is by bias and groups", is_written=False),
        Fixed("scoring_func", ("sigmoid",), "the family's gate is sigmoid", is_written=False),
        Written("num_nextn_predict_layers", 0),
    ),
    names={**_NAMES, "ffn.router.bias": "mlp.gate.e_score_correction_bias"},
    has_mtp_modules=True,
)
