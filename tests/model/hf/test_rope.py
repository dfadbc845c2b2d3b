"""Rotary scalings: the same logits as transformers, from either form of the fields, and refusal of unknown ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.config import ModelConfig, RopeScaling
from model.hf import UnsupportedModel
from model.hf.config.rope import Rope
from tests.model.hf.hf_models import assert_same_both_ways, build

pytestmark = pytest.mark.slow

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SCALINGS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_type": "linear", "factor": 4.0}),
    ("llama", LLAMA3),
    ("llama", YARN),
    ("llama", {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5}),  # here on cosines and sines only
    ("qwen3_moe", {**YARN, "attention_factor": 1.3, "truncate": False}),
    ("mixtral", {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "mscale": 0.5}),
    ("deepseek_v2", {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}),
    ("deepseek_v2", {**YARN, "mscale": 1.0, "mscale_all_dim": 0.4}),
    ("deepseek_v3", {**YARN, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}),
    ("deepseek_v3", {**YARN, "mscale_all_dim": 0.8}),
    ("deepseek_v3", {**YARN, "attention_factor": 1.2, "mscale_all_dim": 0.8}),
    ("deepseek_v3", {"rope_type": "linear", "factor": 3.0}),
]


@pytest.mark.parametrize(("model_type", "parameters"), SCALINGS)
def test_scaled_rotary_agrees(model_type: str, parameters: dict[str, Any], tmp_path: Path) -> None:
    # A small theta lets all pairs turn within the test's few tokens.
    fields = {"rope_parameters": {"rope_theta": 50.0, **parameters}, "num_hidden_layers": 2}
    assert_same_both_ways(build(model_type, seed=3, **fields), tmp_path, seed=3)


@pytest.mark.parametrize("n_positions", [12, 64])
def test_dynamic_scaling_agrees_within_and_beyond_its_original_context(
    n_positions: int, tmp_path: Path
) -> None:
    fields = {
        "rope_parameters": {"rope_theta": 50.0, "rope_type": "dynamic", "factor": 3.0},
        "max_position_embeddings": n_positions,
    }
    ours = assert_same_both_ways(build("llama", seed=4, **fields), tmp_path, seed=4)
    assert ours.config.max_context == 3 * n_positions


def read(**fields: Any) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    Rope(scales_softmax=fields.pop("scales_softmax", False)).read(
        {"max_position_embeddings": 64, **fields}, ours
    )
    return ours


def test_older_and_newer_fields_mean_the_same() -> None:
    older = read(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2})
    newer = read(rope_parameters={"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0})
    assert older == newer
    assert older["rope_scaling"] == {"kind": "linear", "factor": 2.0, "original_context": 64}
    assert (older["rope_theta"], older["max_context"]) == (500.0, 64)


def test_missing_fields_are_what_transformers_takes_them_for() -> None:
    assert read() == {"rope_theta": 10_000.0, "rope_scaling": None, "max_context": 64}
    scaling = read(rope_scaling={"rope_type": "yarn", "factor": 2.0, "beta_fast": None, "mscale": 0})[
        "rope_scaling"
    ]
    assert scaling == {
        "kind": "yarn",
        "factor": 2.0,
        "original_context": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": None,
        "mscale": None,
        "mscale_all_dims": None,
        "truncate": True,
    }


def test_an_original_context_beside_the_scaling_comes_first() -> None:
    # As transformers reads it, for models that keep it there.
    scaling = read(original_max_position_embeddings=8, rope_scaling=YARN)["rope_scaling"]
    assert scaling["original_context"] == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type = 'longrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor must be a number, not None"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "low_freq_factor must be a number"),
        ({"rope_scaling": {**LLAMA3, "factor": "8"}}, "factor must be a number, not '8'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor = 0.25"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "per layer type"),
        ({"max_position_embeddings": None}, "max_position_embeddings must be a whole number"),
        (
            {
                "scales_softmax": True,
                "rope_scaling": {"type": "linear", "factor": 2.0, "mscale_all_dim": 1.0},
            },
            "mscale_all_dim with rope_type 'linear'",
        ),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read(**fields)


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("linear", 2.0, 64),
        RopeScaling("dynamic", 2.0, 32),
        RopeScaling("llama3", 8.0, 16, low_frequency_factor=1.5, high_frequency_factor=3.0),
        RopeScaling("yarn", 4.0, 16, beta_fast=20.0, attention_factor=1.1, mscale=0.7, truncate=False),
    ],
)
def test_written_fields_are_read_as_they_were(scaling: RopeScaling) -> None:
    config = ModelConfig(
        name="written",
        vocab_size=8,
        d_model=8,
        n_layers=1,
        n_heads=1,
        n_kv_heads=1,
        d_head=8,
        d_ff=8,
        max_context=64,
        rope_theta=123.0,
        rope_scaling=scaling,
    )
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    Rope().write(config, theirs)
    Rope().read(theirs, ours)
    assert (ours["max_context"], ours["rope_theta"]) == (64, 123.0)
    assert RopeScaling(**ours["rope_scaling"]) == scaling
