"""Every whole number that a config.json has: what is none, or out of bounds, is refused by name, with its value and a remedy."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.hf import FAMILIES, UnsupportedModel
from model.hf.config.token_ids import TOKEN_FIELDS
from model.hf.families.registry import read_config

pytestmark = pytest.mark.slow

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
POSITIONS = ("max_position_embeddings", "original_max_position_embeddings")
GROUPS = ("n_group", "topk_group")
LATENT = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
ROUTED = ("num_experts_per_tok", "moe_intermediate_size", "intermediate_size")
DEEPSEEK = (*LATENT, *ROUTED, *GROUPS, "n_routed_experts", "n_shared_experts", "first_k_dense_replace")
QWEN = (*ROUTED, "num_experts", "head_dim", "sliding_window", "decoder_sparse_step")
OWN: dict[str, tuple[str, ...]] = {
    "llama": ("intermediate_size", "head_dim"),
    "mixtral": (
        "intermediate_size",
        "head_dim",
        "num_local_experts",
        "num_experts_per_tok",
        "sliding_window",
    ),
    "qwen2_moe": (*QWEN, "shared_expert_intermediate_size", "max_window_layers"),
    "qwen3_moe": QWEN,
    "olmoe": ("intermediate_size", "head_dim", "num_experts", "num_experts_per_tok"),
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": (*DEEPSEEK, "moe_layer_freq"),
}
FIELDS = [(family, field) for family in FAMILIES for field in (*SIZES, *POSITIONS, *OWN[family])]
FROM_ZERO = {"first_k_dense_replace", "max_window_layers"}
NOT_WHOLE: list[Any] = [
    128.5, 4.0, True, False, "4", "", math.nan, math.inf, -math.inf, [], [4], {}, {"value": 4}
]  # fmt: skip


def document(family: str) -> dict[str, Any]:
    """A configuration that has all of the family's fields, each a whole number."""
    fields = {
        "vocab_size": 67, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 64, "intermediate_size": 56, "head_dim": 12,
        "moe_intermediate_size": 20, "shared_expert_intermediate_size": 33, "num_experts_per_tok": 3,
        "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "n_shared_experts": 2, "n_group": 4,
        "topk_group": 2, "kv_lora_rank": 24, "q_lora_rank": 20, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6,
        "v_head_dim": 14, "first_k_dense_replace": 1, "sliding_window": 8, "decoder_sparse_step": 1,
        "max_window_layers": 2, "moe_layer_freq": 1, "original_max_position_embeddings": 16,
    }  # fmt: skip
    kept = {name: value for name, value in fields.items() if name in (*SIZES, *POSITIONS, *OWN[family])}
    if family == "deepseek_v2":
        kept["topk_method"] = "group_limited_greedy"
    if family.startswith("qwen"):
        kept["use_sliding_window"] = True
    rope = {"rope_type": "yarn", "factor": 4.0}
    return {"model_type": family, **kept, "rms_norm_eps": 1e-5, "rope_scaling": rope}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_documents_of_this_test_are_understood_and_the_fields_are_all(family: str) -> None:
    read_config(document(family), "good")
    whole = {name for name, value in document(family).items() if type(value) is int}
    assert whole == {*SIZES, *POSITIONS, *OWN[family]}


@pytest.mark.parametrize(("family", "field"), FIELDS)
def test_what_is_no_whole_number_is_refused_by_name(family: str, field: str) -> None:
    for value in NOT_WHOLE:
        with pytest.raises(UnsupportedModel) as refused:
            read_config(document(family) | {field: value}, "refused")
        message = str(refused.value)
        assert field in message and repr(value) in message, (value, message)
        assert "correct config.json" in message or field == "moe_layer_freq"


@pytest.mark.parametrize(("family", "field"), FIELDS)
def test_a_whole_number_out_of_bounds_is_refused_by_name(family: str, field: str) -> None:
    for value in (-(10**5000), -1, *([] if field in FROM_ZERO else [0]), (1 << 30) + 1, 1 << 62, 10**5000):
        with pytest.raises(UnsupportedModel) as refused:
            read_config(document(family) | {field: value}, "refused")
        assert field in str(refused.value) and len(str(refused.value)) < 300, value


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(FIELDS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    ),
)
def test_any_value_of_any_field_is_understood_or_refused(where: tuple[str, str], value: object) -> None:
    family, field = where
    try:
        read_config(document(family) | {field: value}, "any")
    except UnsupportedModel:
        return
    assert value is None or type(value) is int


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("field", TOKEN_FIELDS)
def test_a_special_token_must_be_one_of_the_model_s(family: str, field: str) -> None:
    for good in (None, 0, 66):
        read_config(document(family) | {field: good}, "good")
    for value in (67, -1, 1 << 40, 1.0, True, "2", {}, [67], [True], ["2"], [[2]], [None]):
        with pytest.raises(UnsupportedModel) as refused:
            read_config(document(family) | {field: value}, "refused")
        message = str(refused.value)
        assert field in message and repr(value) in message and "correct it in config.json" in message


def test_only_the_end_may_have_several_tokens() -> None:
    read_config(document("llama") | {"eos_token_id": [0, 66]}, "good")
    for value in ([0, 66, 67], [0, -1]):
        with pytest.raises(
            UnsupportedModel, match=r"names a token outside of the model's vocabulary.* 0 to 66"
        ):
            read_config(document("llama") | {"eos_token_id": value}, "refused")
    with pytest.raises(UnsupportedModel, match="pad_token_id must be a token id, not"):
        read_config(document("llama") | {"pad_token_id": [0]}, "refused")


def test_a_window_that_is_off_may_be_zero() -> None:
    """As transformers writes it for Qwen2-MoE."""
    for family in ("qwen2_moe", "qwen3_moe"):
        off = document(family) | {"use_sliding_window": False, "sliding_window": 0}
        assert read_config(off, "off")[1].sliding_window is None


def test_a_factor_that_makes_no_context_is_refused() -> None:
    for factor in (1e9, 1e308):
        scaling = {"rope_type": "dynamic", "factor": factor}
        with pytest.raises(UnsupportedModel, match=r"factor = 1e.* makes a context of more than"):
            read_config(document("llama") | {"rope_scaling": scaling}, "refused")
    with pytest.raises(
        UnsupportedModel, match="factor must be a number, not a number of more than 30 digits"
    ):
        read_config(
            document("llama") | {"rope_scaling": {"rope_type": "dynamic", "factor": 10**5000}}, "refused"
        )
