"""Rotations equal transformers' for every scaling, turn as complex numbers do, and keep only relative positions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_apply_mscale

from model.config import ConfigError, LatentConfig, RopeScaling
from model.layers.attention.rotary import Rotary, amplitude, rotate, softmax_factor
from tests.model.random_models import SMALL

CPU = torch.device("cpu")

SCALINGS = {
    "linear": (RopeScaling("linear", 4.0, 1), {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        RopeScaling("llama3", 8.0, 256, low_frequency_factor=1.0, high_frequency_factor=4.0),
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "yarn": (RopeScaling("yarn", 4.0, 256), {"rope_type": "yarn", "factor": 4.0}),
    "yarn, betas and exact limits": (
        RopeScaling("yarn", 6.0, 256, beta_fast=20.0, beta_slow=2.0, truncate=False),
        {"rope_type": "yarn", "factor": 6.0, "beta_fast": 20.0, "beta_slow": 2.0, "truncate": False},
    ),
    "yarn, amplitude given": (
        RopeScaling("yarn", 4.0, 256, attention_factor=0.7),
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.7},
    ),
    "yarn, DeepSeek-V2": (
        RopeScaling("yarn", 40.0, 256, mscale=0.707, mscale_all_dims=0.9),
        {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.9},
    ),
    "yarn, one mscale alone": (
        RopeScaling("yarn", 40.0, 256, mscale_all_dims=0.9),
        {"rope_type": "yarn", "factor": 40.0, "mscale_all_dim": 0.9},
    ),
    "yarn, limits that fall together": (
        RopeScaling("yarn", 4.0, 2, beta_fast=1.0, beta_slow=1.0),
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1.0, "beta_slow": 1.0},
    ),
}


def theirs(
    parameters: dict[str, Any], d_head: int, theta: float, original: int, seq_len: int | None = None
) -> tuple[torch.Tensor, float]:
    kind = parameters["rope_type"]
    rope = {**parameters, "rope_theta": theta}
    if kind != "dynamic":
        rope["original_max_position_embeddings"] = original
    config = LlamaConfig(
        hidden_size=4 * d_head, head_dim=d_head, max_position_embeddings=original, rope_parameters=rope
    )
    return ROPE_INIT_FUNCTIONS[kind](config, CPU, seq_len=seq_len)


@pytest.mark.parametrize("theta", [500.0, 10_000.0, 1_000_000.0])
@pytest.mark.parametrize("d_head", [8, 64, 96])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_and_amplitude_equal_transformers(name: str, d_head: int, theta: float) -> None:
    scaling, parameters = SCALINGS[name]
    expected, factor = theirs(parameters, d_head, theta, scaling.original_context)
    found = Rotary(d_head, theta, 100, scaling).frequencies(CPU)
    assert torch.allclose(found, expected, atol=0, rtol=2e-6)  # none is above 1
    assert amplitude(scaling) == pytest.approx(factor, abs=1e-12)
    plain = Rotary(d_head, theta, 100).frequencies(CPU)
    assert not torch.allclose(found, plain, atol=1e-6, rtol=1e-2) or name.endswith("together")


@pytest.mark.parametrize("name", SCALINGS)
def test_the_softmax_factor_equals_deepseeks(name: str) -> None:
    scaling, parameters = SCALINGS[name]
    expected = yarn_apply_mscale(parameters, 1.0)
    assert softmax_factor(scaling) == pytest.approx(expected, abs=1e-12)
    assert (softmax_factor(scaling) > 1.1) == (scaling.mscale_all_dims is not None)


def test_rotations_carry_the_amplitude() -> None:
    scaling = SCALINGS["yarn, amplitude given"][0]
    cos, sin, _ = Rotary(16, 500.0, 100, scaling).at(torch.arange(100), torch.float32)
    assert torch.allclose(cos.square() + sin.square(), torch.tensor(0.49), atol=1e-6)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 1000])
def test_dynamic_frequencies_equal_transformers_at_each_length(length: int) -> None:
    parameters = {"rope_type": "dynamic", "factor": 3.0}
    expected, factor = theirs(parameters, 16, 500.0, 64, seq_len=length)
    assert factor == 1.0
    rotary = Rotary(16, 500.0, 2000, RopeScaling("dynamic", 3.0, 64))
    positions = torch.arange(length)
    cos, sin, _ = rotary.at(positions, torch.float32)
    angles = positions[:, None] * expected.repeat(2)
    assert torch.allclose(cos, angles.cos(), atol=2e-4)  # angles of hundreds in fp32
    assert torch.allclose(sin, angles.sin(), atol=2e-4)
    first = rotary.at(torch.ones(1, dtype=torch.int64), torch.float32, torch.tensor([length]))
    assert torch.allclose(first.sin[0, :8].asin(), expected.sin().asin(), atol=1e-6)


@pytest.mark.parametrize("is_interleaved", [False, True])
def test_dynamic_rotations_do_not_depend_on_the_batch(is_interleaved: bool) -> None:
    rotary = Rotary(16, 500.0, 2000, RopeScaling("dynamic", 3.0, 64), is_interleaved)
    short, long = torch.arange(50), torch.arange(50) + 150
    both = rotary.at(torch.stack((short, long)), torch.float32)
    for row, alone in enumerate((short, long)):
        of_row = rotary.at(alone, torch.float32)
        assert torch.equal(both.cos[row], of_row.cos) and torch.equal(both.sin[row], of_row.sin)
    plain = Rotary(16, 500.0, 2000, is_interleaved=is_interleaved)
    assert torch.allclose(both.cos[0], plain.at(short, torch.float32).cos, atol=1e-6)
    assert not torch.allclose(both.cos[1], plain.at(long, torch.float32).cos, atol=1e-2)


@pytest.mark.parametrize("is_interleaved", [False, True])
def test_rotation_multiplies_pairs_as_complex_numbers(is_interleaved: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8)  # [B, S, H, C]
    positions = torch.tensor([[0, 1, 2, 3, 9], [4, 5, 0, 1, 90]])
    rotation = Rotary(8, 500.0, 100, is_interleaved=is_interleaved).at(positions, torch.float32)
    found = rotate(x, rotation).double()
    pairs = x.unflatten(-1, (4, 2)) if is_interleaved else x.unflatten(-1, (2, 4)).transpose(-1, -2)
    angle = positions[..., None] * 500.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    turned = (
        torch.view_as_complex(pairs.double().contiguous())
        * torch.polar(torch.ones_like(angle), angle)[:, :, None]
    )
    expected = torch.view_as_real(turned)
    expected = expected.flatten(-2) if is_interleaved else expected.transpose(-1, -2).flatten(-2)
    assert (found - expected).abs().max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(0, 500),
    st.booleans(),
    st.sampled_from([None, "linear", "llama3", "yarn", "yarn, amplitude given"]),
)
def test_products_depend_on_the_distance_alone(
    query: int, key: int, shift: int, is_interleaved: bool, scaling: str | None
) -> None:
    rotary = Rotary(16, 10_000.0, 1001, SCALINGS[scaling][0] if scaling else None, is_interleaved)
    q, k = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(query))

    def product(q_position: int, k_position: int) -> float:
        turned = [
            rotate(x, rotary.at(torch.tensor(position), torch.float32))
            for x, position in ((q, q_position), (k, k_position))
        ]
        return float((turned[0] * turned[1]).sum())

    size = float(q.norm() * k.norm()) * amplitude(rotary.scaling) ** 2
    assert math.isclose(product(query, key), product(query + shift, key + shift), abs_tol=3e-4 * size)


def test_a_latents_rotary_part_is_what_turns() -> None:
    latent = LatentConfig(kv_rank=8, d_nope=6, d_rope=4, d_value=6)
    assert Rotary.of(SMALL).d_rotary == SMALL.d_head
    assert Rotary.of(replace(SMALL, latent=latent, rope_interleaved=True)) == Rotary(
        4, SMALL.rope_theta, SMALL.max_context, None, True
    )


def test_tables_made_in_inference_mode_serve_training() -> None:
    rotary = Rotary(8, 123.0, 10)
    with torch.inference_mode():
        rotary.at(torch.arange(3), torch.float32)
    x = torch.randn(3, 1, 8, requires_grad=True)
    rotate(x, rotary.at(torch.arange(3), torch.float32)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_planning_with_fake_tensors_leaves_no_fake_table_behind() -> None:
    rotary = Rotary(8, 321.0, 10)
    with FakeTensorMode():
        assert rotary.at(torch.arange(3), torch.float32).cos.shape == (3, 8)
    assert type(rotary.at(torch.arange(3), torch.float32).cos) is torch.Tensor


def test_dynamic_scaling_of_a_single_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than two"):
        Rotary(2, 500.0, 10, RopeScaling("dynamic", 2.0, 5))
