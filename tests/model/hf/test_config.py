"""config.json to ModelConfig and back: every field, defaults of transformers, and refusals that name the field."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from typing import Any

import pytest
from transformers import AutoConfig

from model.config import LatentConfig, ModelConfig, MoEConfig
from model.hf import FAMILIES, UnsupportedModel
from model.hf.config.meaning import differences
from model.hf.families.registry import read_config, write_config
from model.presets import PRESETS
from tests.model.hf.hf_models import FIELDS, configuration, random_fields

pytestmark = pytest.mark.slow


def theirs(model_type: str, **fields: Any) -> dict[str, Any]:
    """What transformers writes to config.json for a small model."""
    document = json.loads(configuration(model_type, **fields).to_json_string())
    return {**document, **{name: value for name, value in fields.items() if name not in document}}


def ours(model_type: str, **fields: Any) -> ModelConfig:
    return read_config(theirs(model_type, **fields), "read")[1]


DENSE = ModelConfig(
    name="dense",
    vocab_size=67,
    d_model=48,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    d_head=12,
    d_ff=72,
    max_context=64,
    tie_embeddings=False,
)
EXPERTS = MoEConfig(d_model=48, d_expert=20, n_experts=12, top_k=3)


def test_llama() -> None:
    assert ours("llama") == dataclasses.replace(DENSE, name="read")


def test_mixtral() -> None:
    moe = dataclasses.replace(EXPERTS, d_expert=40, n_experts=6)
    expected = dataclasses.replace(
        DENSE, name="read", d_ff=40, moe=moe, rope_theta=1e6, norm_eps=1e-5, sliding_window=7
    )
    assert ours("mixtral", sliding_window=7) == expected


def test_qwen2_moe() -> None:
    moe = dataclasses.replace(
        EXPERTS, n_experts=7, normalise_top_k=False, n_shared=1, shared_width=33, gate_shared=True
    )
    expected = dataclasses.replace(DENSE, name="read", d_ff=56, moe=moe, qkv_bias=True)
    assert ours("qwen2_moe") == expected


def test_qwen3_moe() -> None:
    moe = dataclasses.replace(EXPERTS, n_experts=9)
    expected = dataclasses.replace(DENSE, name="read", d_head=20, d_ff=56, moe=moe, qk_norm="head")
    assert ours("qwen3_moe") == expected


def test_olmoe() -> None:
    moe = dataclasses.replace(EXPERTS, d_expert=36, n_experts=8, normalise_top_k=False)
    expected = dataclasses.replace(DENSE, name="read", d_ff=36, moe=moe, qk_norm="all", qkv_clip=8.0)
    assert ours("olmoe", clip_qkv=8.0) == expected


LATENT = LatentConfig(kv_rank=24, d_nope=10, d_rope=6, d_value=14, q_rank=20)


def test_deepseek_v2() -> None:
    moe = dataclasses.replace(
        EXPERTS, n_shared=2, normalise_top_k=False, routed_scale=1.5, n_groups=4, top_groups=2
    )
    expected = dataclasses.replace(
        DENSE,
        name="read",
        n_kv_heads=4,
        d_head=6,
        d_ff=56,
        latent=LATENT,
        rope_interleaved=True,
        first_moe_layer=1,
        moe=moe,
    )
    assert ours("deepseek_v2", routed_scaling_factor=1.5) == expected


def test_deepseek_v3() -> None:
    moe = dataclasses.replace(
        EXPERTS,
        n_shared=2,
        gate="sigmoid",
        bias_balancing=True,
        routed_scale=1.7,
        n_groups=4,
        top_groups=2,
        group_score="top2",
    )
    expected = dataclasses.replace(
        DENSE,
        name="read",
        n_kv_heads=4,
        d_head=6,
        d_ff=56,
        latent=dataclasses.replace(LATENT, q_rank=None),
        rope_interleaved=True,
        qkv_bias=True,
        output_bias=True,
        first_moe_layer=1,
        moe=moe,
    )
    assert ours("deepseek_v3", q_lora_rank=None, attention_bias=True) == expected


def test_published_fields_of_deepseek_v3_are_understood_once_dequantised() -> None:
    """The fields of the release's own config.json that transformers' class does not have."""
    published = {
        "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
        "ep_size": 1,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "rope_theta": 10000,
        "rope_scaling": {
            "type": "yarn",
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 16,
        },
    }
    document = theirs("deepseek_v3") | published
    del document["rope_parameters"]
    config = read_config(document, "v3")[1]
    assert config.rope_scaling is not None
    assert (config.rope_scaling.factor, config.rope_scaling.mscale_all_dims) == (40.0, 1.0)
    assert config.rope_theta == 10_000.0
    with pytest.raises(UnsupportedModel, match=r"quantization_config .* dequantised first"):
        read_config(document | {"quantization_config": {"quant_method": "fp8"}}, "v3")


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("seed", range(8))
def test_transformers_reads_what_we_write_as_the_same_configuration(model_type: str, seed: int) -> None:
    """Each field of theirs that a model depends on comes back, through our configuration, as it was."""
    before = configuration(model_type, **random_fields(model_type, seed))
    family, config = read_config(json.loads(before.to_json_string()), "between")
    assert family is FAMILIES[model_type]
    after = AutoConfig.for_model(**family.write_config(config) | {"bos_token_id": None, "eos_token_id": None})
    normal_before, normal_after = _comparable(before), _comparable(after)
    assert {n: v for n, v in normal_after.items() if normal_before.get(n) != v} == {}
    assert set(normal_before) == set(normal_after)


# Not properties of the trained model, or said in another way, which the logits' tests compare.
_APART = {
    "architectures", "transformers_version", "dtype", "initializer_range", "use_cache", "pad_token_id",
    "router_aux_loss_coef", "num_nextn_predict_layers", "num_mtp_layers", "pretraining_tp",
    "decoder_sparse_step", "mlp_only_layers", "topk_method", "n_group", "topk_group",
    "use_sliding_window", "max_window_layers", "norm_topk_prob",
}  # fmt: skip


def _comparable(config: Any) -> dict[str, Any]:
    document = {name: value for name, value in config.to_dict().items() if name not in _APART}
    document["sliding_window"] = document.get("sliding_window") or None
    document.setdefault("head_dim", config.hidden_size // config.num_attention_heads)
    if "mlp_only_layers" in config.to_dict():
        document["sparse"] = [
            layer not in config.mlp_only_layers and (layer + 1) % config.decoder_sparse_step == 0
            for layer in range(config.num_hidden_layers)
        ]
    return document


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}}, "rope_type = 'longrope'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"vocab_size": None}, "has no vocab_size"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers must be a whole number, not '3'"),
        ({"rms_norm_eps": True}, "rms_norm_eps must be a number, not True"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, not 1"),
        (
            {"num_attention_heads": 5, "num_key_value_heads": 3},
            "n_heads must be a multiple|num_key_value_heads = 3",
        ),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000, not 1000000000"),
    ],
)
def test_what_no_family_can_represent_is_refused_by_name(
    model_type: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_config(theirs(model_type) | fields, "refused")


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("qwen2_moe", {"use_sliding_window": True, "layer_types": ["chunked_attention"] * 3}, "layer_types"),
        ("qwen2_moe", {"layer_types": ["sliding_attention"] * 3}, "use_sliding_window is false"),
        ("qwen2_moe", {"use_sliding_window": True, "layer_types": ["full_attention"]}, "3 times"),
        ("qwen2_moe", {"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size"),
        ("qwen2_moe", {"num_experts": 0}, "num_experts must be at least 1, not 0"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ("qwen3_moe", {"num_experts_per_tok": 10}, "top_k must not exceed"),
        ("qwen3_moe", {"mlp_only_layers": "x"}, "mlp_only_layers must be a list of layers below 3, not 'x'"),
        ("qwen3_moe", {"mlp_only_layers": [99]}, r"mlp_only_layers must be a list .* not \[99\]"),
        ("qwen2_moe", {"mlp_only_layers": [True]}, r"mlp_only_layers must be a list .* not \[True\]"),
        ("qwen2_moe", {"use_sliding_window": True, "layer_types": 5}, "layer_types must be 3 times"),
        ("llama", {"rope_parameters": None, "rope_theta": 0}, "rope_theta must be above 0"),
        ("llama", {"rms_norm_eps": 0}, "norm_eps must be above 0"),
        (
            "llama",
            {"max_position_embeddings": math.nan},
            "max_position_embeddings must be a whole number, not nan",
        ),
        (
            "llama",
            {"max_position_embeddings": math.inf},
            "max_position_embeddings must be a whole number, not inf",
        ),
        ("mixtral", {"sliding_window": 0}, "sliding_window must be"),
        ("olmoe", {"sliding_window": 8}, "sliding_window = 8"),
        ("olmoe", {"head_dim": 16}, "head_dim = 16"),
        ("llama", {"head_dim": 11}, "d_head must be even"),
        ("llama", {"head_dim": "12"}, "head_dim must be a whole number"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob = True"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method = 'noaux_tc'"),
        ("deepseek_v2", {"n_group": None}, "n_group must be a whole number"),
        ("deepseek_v2", {"mlp_bias": True}, "mlp_bias = True"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads = 2"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq = 2"),
        ("deepseek_v3", {"n_shared_experts": None}, "n_shared_experts must be"),
        ("deepseek_v3", {"n_group": 12, "topk_group": 3}, "top2 needs groups"),
        ("deepseek_v3", {"first_k_dense_replace": None}, "first_k_dense_replace must be"),
    ],
)
def test_what_a_family_cannot_represent_is_refused_by_name(
    model_type: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_config(theirs(model_type) | fields, "refused")


JUNK = [None, True, 0, -1, 1.5, math.nan, math.inf, "", "x", [], ["x"], [99], {}, {"x": {}}]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_value_of_any_field_ends_in_a_traceback(model_type: str) -> None:
    """Each is understood or refused by name; what else can happen here would reach people as a traceback."""
    document = theirs(model_type)
    if model_type == "qwen2_moe":
        document |= {
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 2,
            "layer_types": None,
        }
    del document["rope_parameters"]
    parameters: dict[str, Any] = dict.fromkeys(
        ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"), 1.5
    )
    parameters |= {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "rope_theta": 1e4, "truncate": True}
    parameters["original_max_position_embeddings"] = 16
    document["rope_scaling"] = parameters
    read_config(document, "as it should be")
    named = [{field: junk} for field in (*document, "rope_theta", "rope_parameters") for junk in JUNK]
    named += [{"rope_scaling": parameters | {field: junk}} for field in parameters for junk in JUNK]
    refused = 0
    for change in named:
        try:
            read_config(document | change, "junk")
        except UnsupportedModel:
            refused += 1
    assert refused > len(named) / 4


def test_an_unknown_family_is_refused_with_those_that_are_known() -> None:
    for model_type in ("gpt2", None, ["llama"]):
        with pytest.raises(UnsupportedModel, match=r"model_type = .* only llama, mixtral, qwen2_moe"):
            read_config({"model_type": model_type}, "refused")
    with pytest.raises(UnsupportedModel, match="model_type = 'gpt2'"):
        write_config(DENSE, "gpt2")


def test_missing_fields_are_what_transformers_takes_them_for() -> None:
    document = theirs("qwen2_moe")
    for name in ("num_key_value_heads", "rope_parameters", "qkv_bias", "norm_topk_prob", "layer_types"):
        del document[name]
    for name in (
        "tie_word_embeddings",
        "decoder_sparse_step",
        "mlp_only_layers",
        "use_sliding_window",
        "hidden_act",
    ):
        document.pop(name, None)
    expected = AutoConfig.for_model(**document)
    config = read_config(document, "defaults")[1]
    assert (config.qkv_bias, config.tie_embeddings) == (expected.qkv_bias, expected.tie_word_embeddings)
    assert config.rope_theta == expected.rope_parameters["rope_theta"]
    assert (
        config.n_kv_heads == 4
    )  # transformers has the release's 16 here, which no model of 4 heads can have
    assert config.moe is not None
    assert config.moe.normalise_top_k == expected.norm_topk_prob
    assert config.sliding_window is None


def test_windows_without_layer_types_are_those_of_transformers() -> None:
    document = theirs("qwen2_moe", num_hidden_layers=6)
    document |= {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3}
    del document["layer_types"]
    expected = AutoConfig.for_model(**document).layer_types
    config = read_config(document, "windows")[1]
    assert [config.window(layer) for layer in range(6)] == [
        5 if kind == "sliding_attention" else None for kind in expected
    ]
    assert {5, None} == {config.window(layer) for layer in range(6)}


def test_what_acts_in_training_only_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "model.hf"):
        ours("mixtral", attention_dropout=0.1, router_jitter_noise=0.01)
    assert "attention_dropout = 0.1 affects training only" in caplog.text
    assert "router_jitter_noise = 0.01" in caplog.text
    caplog.clear()
    ours("mixtral")
    assert caplog.text == ""


CANNOT: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"qk_norm": "head"}, "qk_norm = 'head'"),
    ("llama", {"qkv_bias": True}, "output_bias = False"),
    ("llama", {"sliding_window": 8}, r"sliding_window = \(8, 8, 8\)"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved = True"),
    ("llama", {"attention_owners": (0, 0, 2)}, "layers share weights. Export it with --unshare"),
    ("llama", {"ffn_owners": (0, 1, 0)}, "layers share weights. Export it with --unshare"),
    ("llama", {"ffn_owners": (0, 1, 0), "qk_norm": "head"}, "qk_norm = 'head'"),
    ("llama", {"d_model": 49}, "d_model must be a multiple of n_heads"),
    ("llama", {"qkv_clip": 3.0}, "qkv_clip = 3.0"),
    ("llama", {"moe": EXPERTS}, "moe"),
    ("mixtral", {}, "ModelConfig.moe must be given"),
    ("mixtral", {"moe": EXPERTS, "first_moe_layer": 1}, r"moe layers = \(1, 2\)"),
    ("mixtral", {"moe": dataclasses.replace(EXPERTS, gate="sigmoid")}, "moe.gate = 'sigmoid'"),
    ("mixtral", {"moe": dataclasses.replace(EXPERTS, n_groups=4, top_groups=2)}, "moe.n_groups = 4"),
    ("mixtral", {"moe": dataclasses.replace(EXPERTS, n_shared=1)}, "moe.d_shared = 20"),
    ("mixtral", {"moe": dataclasses.replace(EXPERTS, bias_balancing=True)}, "moe.bias_balancing = True"),
    ("mixtral", {"moe": dataclasses.replace(EXPERTS, routed_scale=2.0)}, "moe.routed_scale = 2.0"),
    ("qwen2_moe", {"moe": EXPERTS}, "moe.d_shared must be"),
    ("qwen3_moe", {"moe": EXPERTS}, "qk_norm = 'none'"),
    ("olmoe", {"moe": EXPERTS, "qk_norm": "all", "d_head": 16}, "d_head = 16"),
    ("deepseek_v2", {"moe": EXPERTS}, "ModelConfig.latent must be given"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "fields", "message"), CANNOT)
def test_a_model_of_ours_that_a_family_has_no_place_for_is_refused(
    model_type: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        write_config(dataclasses.replace(DENSE, **fields), model_type)


def test_the_first_family_that_fits_is_chosen() -> None:
    moe = dataclasses.replace(DENSE, moe=EXPERTS)
    plain = dataclasses.replace(EXPERTS, normalise_top_k=False)
    assert write_config(DENSE)[0] is FAMILIES["llama"]
    assert write_config(moe)[0] is FAMILIES["mixtral"]
    assert write_config(dataclasses.replace(moe, qk_norm="head"))[0] is FAMILIES["qwen3_moe"]
    assert write_config(dataclasses.replace(moe, moe=plain, qk_norm="all"))[0] is FAMILIES["olmoe"]
    for model_type in FIELDS:
        if model_type != "llama":
            assert write_config(ours(model_type))[0] is FAMILIES[model_type]


NEAREST: list[tuple[ModelConfig, list[str], str]] = [
    (PRESETS["tiny"], ["mixtral", "qwen2_moe"], "mixtral cannot represent moe.d_shared = 32"),
    (dataclasses.replace(DENSE, qk_norm="head"), ["llama"], "llama cannot represent qk_norm = 'head'"),
    (dataclasses.replace(DENSE, d_model=49), ["llama"], "d_model must be a multiple of n_heads"),
    # What lacks a part is not compared, so it is shown beside the nearest that was.
    (
        dataclasses.replace(DENSE, moe=EXPERTS, latent=LATENT, n_kv_heads=4, d_head=6),
        ["qwen2_moe", "deepseek_v2", "deepseek_v3", "mixtral"],
        "deepseek_v3: ModelConfig.moe.d_shared must be a whole number above 0",
    ),
]


@pytest.mark.parametrize(("config", "families", "message"), NEAREST)
def test_when_no_family_fits_the_nearest_say_why(
    config: ModelConfig, families: list[str], message: str
) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        write_config(config)
    said = str(refused.value)
    assert message in said
    assert "--family NAME gives the reasons of another one" in said
    assert sorted(families) == sorted(name for name in FAMILIES if name in said)
    assert len(said) < 600


def test_ways_to_say_the_same_mean_the_same() -> None:
    moe = dataclasses.replace(DENSE, moe=EXPERTS)
    same = [
        dataclasses.replace(moe, name="other", n_ahead=2, d_ff=1, ffn_bias=True),
        dataclasses.replace(moe, full_attention_layers=(1,), attention_owners=(0, 1, 2)),
        dataclasses.replace(
            moe, moe=dataclasses.replace(EXPERTS, n_groups=3, top_groups=3, group_score="top2", z_loss=0.1)
        ),
        dataclasses.replace(moe, moe=dataclasses.replace(EXPERTS, capacity_factor=1.5)),
    ]
    for config in same:
        assert differences(moe, config) == []
    assert (
        differences(dataclasses.replace(moe, first_moe_layer=1), dataclasses.replace(moe, dense_layers=(0,)))
        == []
    )
    assert "moe layers = (0, 1, 2)" in differences(moe, dataclasses.replace(moe, dense_layers=(2,)))
    assert "vocab_size = 67" in differences(DENSE, dataclasses.replace(DENSE, vocab_size=68))
