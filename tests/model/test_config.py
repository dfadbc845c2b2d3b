"""Shapes are validated, counted, written and read back without torch."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ConfigError, LatentConfig, ModelConfig, MoEConfig, RopeScaling
from model.presets import PRESETS
from model.transformer import Transformer

pytestmark = pytest.mark.slow


def test_config_and_package_import_without_torch() -> None:
    code = "import sys, model, model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_a_round_trip_through_json(name: str) -> None:
    config = PRESETS[name]
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_impossible_shapes_are_refused_by_name() -> None:
    good = {"d_model": 8, "d_expert": 8, "n_experts": 4, "top_k": 2}
    for change, field in (({"top_k": 5}, "top_k"), ({"d_model": 0}, "d_model"), ({"gate": "relu"}, "gate")):
        with pytest.raises(ConfigError, match=field):
            MoEConfig(**{**good, **change})
    with pytest.raises(ConfigError, match="n_layers must be at most 10000"):
        replace(PRESETS["tiny"], n_layers=10_001)
    with pytest.raises(ConfigError, match="unexpected"):
        ModelConfig.from_dict({**PRESETS["tiny"].to_dict(), "unexpected": 1})


MISTYPED: list[tuple[str, Any, str]] = [
    ("n_layers", 2.5, "ModelConfig.n_layers must be a whole number, not 2.5"),
    ("vocab_size", True, "ModelConfig.vocab_size must be a whole number, not True"),
    ("name", None, "ModelConfig.name must be a text, not None"),
    ("norm_eps", "1e-5", "ModelConfig.norm_eps must be a number, not '1e-5'"),
    ("rope_theta", True, "ModelConfig.rope_theta must be a number, not True"),
    ("qkv_bias", 1, "ModelConfig.qkv_bias must be true or false, not 1"),
    ("sliding_window", 2.5, "ModelConfig.sliding_window must be a whole number or None, not 2.5"),
    ("dense_layers", [0.5], "ModelConfig.dense_layers must be a tuple of whole numbers"),
    ("attention_owners", 3, "ModelConfig.attention_owners must be a tuple of whole numbers"),
    ("rope_scaling", {"kind": "linear", "factor": "2", "original_context": 8}, "RopeScaling.factor must be"),
    ("latent", {"kv_rank": 4.0, "d_nope": 2, "d_rope": 2, "d_value": 2}, "LatentConfig.kv_rank must be"),
    ("moe.top_k", 1.5, "MoEConfig.top_k must be a whole number, not 1.5"),
    ("moe.normalise_top_k", "no", "MoEConfig.normalise_top_k must be true or false, not 'no'"),
    ("moe.gate", 5, "MoEConfig.gate must be one of softmax, sigmoid"),
]


@pytest.mark.parametrize(("path", "value", "message"), MISTYPED)
def test_fields_of_another_type_are_refused_by_name(path: str, value: Any, message: str) -> None:
    values = PRESETS["tiny"].to_dict()
    *parents, field = path.split(".")
    part = values[parents[0]] if parents else values
    part[field] = value
    with pytest.raises(ConfigError, match=re.escape(message)):
        ModelConfig.from_dict(values)


def test_whole_numbers_pass_for_fractions_and_a_part_must_be_one() -> None:
    whole = replace(PRESETS["tiny"], rope_theta=500, qkv_clip=3)
    assert ModelConfig.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    with pytest.raises(ConfigError, match="moe must be a MoEConfig or None, not 3"):
        replace(PRESETS["tiny"], moe=3)  # type: ignore[arg-type]
    for values in (5, [1], None, "tiny"):
        with pytest.raises(ConfigError, match="is not an object with fields"):
            ModelConfig.from_dict(values)  # type: ignore[arg-type]


def test_shared_experts_are_merged_into_one_width() -> None:
    assert MoEConfig(d_model=8, d_expert=4, n_experts=2, top_k=1, n_shared=3).d_shared == 12


def sizes(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


@st.composite
def mixtures(draw: st.DrawFn, d_model: int) -> MoEConfig:
    n_groups = draw(st.sampled_from([1, 2]))
    n_experts = n_groups * draw(sizes(2, 3))
    n_shared = draw(sizes(0, 2))
    return MoEConfig(
        d_model,
        d_expert=draw(sizes(1, 9)),
        n_experts=n_experts,
        top_k=draw(sizes(1, 2)),
        n_shared=n_shared,
        gate=draw(st.sampled_from(["softmax", "sigmoid"])),
        bias_balancing=draw(st.booleans()),
        shared_width=draw(st.none() | sizes(1, 20)) if n_shared else None,
        gate_shared=draw(st.booleans()) if n_shared else False,
        n_groups=n_groups,
    )


@st.composite
def owners(draw: st.DrawFn, kinds: tuple[bool, ...]) -> tuple[int, ...]:
    """Each layer names itself or an earlier owner of its kind; sometimes nothing is shared."""
    if draw(st.booleans()):
        return ()
    chosen: list[int] = []
    for layer, kind in enumerate(kinds):
        earlier = sorted({owner for owner in chosen if kinds[owner] == kind})
        chosen.append(draw(st.sampled_from([layer, *earlier])))
    return tuple(chosen)


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    d_model, n_layers, n_kv_heads = draw(sizes(1, 12)), draw(sizes(1, 4)), draw(sizes(1, 3))
    moe = draw(st.none() | mixtures(d_model))
    layers = st.lists(sizes(0, n_layers - 1), max_size=2).map(tuple)
    latent = draw(
        st.none()
        | st.builds(
            LatentConfig,
            kv_rank=sizes(1, 9),
            d_nope=sizes(1, 9),
            d_rope=st.sampled_from([2, 4]),
            d_value=sizes(1, 9),
            q_rank=st.none() | sizes(1, 9),
        )
    )
    plain = ModelConfig(
        name="drawn",
        vocab_size=draw(sizes(1, 30)),
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_kv_heads * draw(sizes(1, 3)),
        n_kv_heads=n_kv_heads,
        d_head=draw(st.sampled_from([2, 4, 6])),
        d_ff=draw(sizes(1, 12)),
        max_context=16,
        tie_embeddings=draw(st.booleans()),
        moe=moe,
        first_moe_layer=draw(sizes(0, n_layers)),
        dense_layers=draw(layers),
        latent=latent,
        rope_scaling=draw(st.none() | st.just(RopeScaling("yarn", 2.0, 8))),
        qk_norm="none" if latent else draw(st.sampled_from(["none", "head", "all"])),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        ffn_bias=draw(st.booleans()),
        sliding_window=draw(st.none() | sizes(1, 9)),
        full_attention_layers=draw(layers),
        n_ahead=draw(sizes(0, 2)),
    )
    kinds = tuple(plain.is_moe_layer(layer) for layer in range(n_layers))
    return replace(
        plain,
        attention_owners=draw(owners((False,) * n_layers)),
        ffn_owners=draw(owners(kinds)),
    )


@settings(max_examples=150, deadline=None)
@given(models())
def test_counts_are_those_of_the_built_model_and_json_keeps_the_shape(config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.total_parameters
    attention = model.layers[0].attention
    assert sum(parameter.numel() for parameter in attention.parameters()) == config.attention_parameters
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@settings(max_examples=40, deadline=None)
@given(models())
def test_active_parameters_count_each_use_of_a_token(config: ModelConfig) -> None:
    """Walks through the layers as a token does: each parameter it is multiplied with, k experts of E."""
    with torch.device("meta"):
        model = Transformer(replace(config, n_ahead=0))
    used = sum(
        parameter.numel()
        for parameter in (model.embedding, model.head, *model.norm.parameters())
        if parameter is not None
    )
    for block in model.layers:
        parts = (block.attention_norm, block.attention, block.ffn_norm, block.ffn)
        for name, parameter in (item for part in parts for item in part.named_parameters()):
            share = config.moe.top_k / config.moe.n_experts if name.startswith("experts.") else 1
            used += round(parameter.numel() * share)
    assert used == config.active_parameters


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"attention_owners": (0,)}, "one owner per layer"),
        ({"attention_owners": (0, 2)}, "earlier owner"),
        ({"ffn_owners": (1, 1)}, "earlier owner"),
        ({"first_moe_layer": 1, "ffn_owners": (0, 0)}, "the same kind"),
        ({"dense_layers": (2,)}, "dense_layers"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"qkv_clip": -1.0}, "qkv_clip"),
        ({"n_ahead": -1}, "n_ahead"),
        ({"qk_norm": "some"}, "qk_norm"),
        ({"n_kv_heads": 3}, "n_kv_heads"),
    ],
)
def test_impossible_models_are_refused_by_name(change: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(PRESETS["tiny"], **change)


NO_NUMBERS = (math.nan, math.inf, -math.inf, -1.0)
WITH_SHARED = MoEConfig(d_model=8, d_expert=8, n_experts=4, top_k=2, n_shared=1)
YARN = RopeScaling("yarn", 2.0, 8)
RANGES: list[tuple[Any, str, tuple[float, ...]]] = [
    (PRESETS["smollm2"], "rope_theta", (*NO_NUMBERS, 0)),
    (PRESETS["smollm2"], "norm_eps", (*NO_NUMBERS, 0)),
    (PRESETS["smollm2"], "qkv_clip", (*NO_NUMBERS, 0)),
    (YARN, "factor", (*NO_NUMBERS, 0.5)),
    (YARN, "beta_fast", (*NO_NUMBERS, 0, 0.5)),
    (YARN, "beta_slow", (*NO_NUMBERS, 0, 33)),
    (YARN, "attention_factor", (*NO_NUMBERS, 0)),
    (YARN, "mscale", NO_NUMBERS),
    (YARN, "mscale_all_dims", NO_NUMBERS),
    (RopeScaling("llama3", 2.0, 8), "low_frequency_factor", (*NO_NUMBERS, 0)),
    (RopeScaling("llama3", 2.0, 8), "high_frequency_factor", NO_NUMBERS),
    (WITH_SHARED, "shared_width", (-1, 0)),
    (WITH_SHARED, "routed_scale", NO_NUMBERS),
    (WITH_SHARED, "capacity_factor", (*NO_NUMBERS, 0)),
    *((WITH_SHARED, weight, NO_NUMBERS) for weight in ("switch_loss", "sequence_loss", "z_loss")),
]


@pytest.mark.parametrize(
    ("part", "field", "value"), [(part, field, value) for part, field, values in RANGES for value in values]
)
def test_numbers_out_of_range_are_refused_by_name(part: Any, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(part, **{field: value})


def test_limits_of_the_ranges_are_allowed() -> None:
    replace(WITH_SHARED, routed_scale=0.0, shared_width=1, capacity_factor=0.01, z_loss=0.0)
    replace(YARN, factor=1.0, beta_fast=1.0, beta_slow=1.0, mscale=0.0, mscale_all_dims=0.0)
    replace(PRESETS["smollm2"], rope_theta=1.0, norm_eps=1e-12, qkv_clip=None)
    with pytest.raises(ConfigError, match="rope_theta must be above 1 for yarn"):
        replace(PRESETS["smollm2"], rope_theta=1.0, rope_scaling=YARN)


def test_impossible_parts_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="d_rope must be even"):
        LatentConfig(kv_rank=4, d_nope=4, d_rope=3, d_value=4)
    with pytest.raises(ConfigError, match=r"RopeScaling\.kind"):
        RopeScaling("longrope", 2.0, 8)
    with pytest.raises(ConfigError, match="factor must be at least 1"):
        RopeScaling("linear", 0.5, 8)
    with pytest.raises(ConfigError, match="high_frequency_factor"):
        RopeScaling("llama3", 2.0, 8, low_frequency_factor=4.0, high_frequency_factor=4.0)
    with pytest.raises(ConfigError, match="qk_norm cannot be used with latent"):
        replace(PRESETS["smollm2"], latent=LatentConfig(4, 4, 4, 4), qk_norm="head")
