"""More experts from different experts: equal logits prove the routes, for all gates, groups and biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import ConfigError, ModelConfig, MoEConfig
from model.growth import Growth, duplicate_experts, split_experts
from model.presets import PRESETS
from model.transformer import Transformer

BASE = MoEConfig(d_model=64, d_expert=24, n_experts=8, top_k=2, n_shared=1)
WAYS: list[Callable[[ModelConfig, int], Growth]] = [duplicate_experts, split_experts]
ROUTINGS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "plain softmax": {"normalise_top_k": False, "routed_scale": 2.5},
    "sigmoid": {"gate": "sigmoid", "routed_scale": 1.5},
    "plain sigmoid": {"gate": "sigmoid", "normalise_top_k": False},
    "biased softmax": {"bias_balancing": True},
    "biased sigmoid": {"gate": "sigmoid", "bias_balancing": True},
    "groups": {"n_groups": 4, "top_groups": 2, "bias_balancing": True},
    "gated shared": {"gate_shared": True, "shared_width": 40},
}


def config_of(**routing: Any) -> ModelConfig:
    return replace(
        PRESETS["tiny"], name="parent", vocab_size=50, moe=replace(BASE, **routing), first_moe_layer=1
    )


def parent_of(config: ModelConfig) -> Transformer:
    """Random experts, all different, and biases that change choices."""
    torch.manual_seed(4)
    parent = Transformer(config).eval()
    for name, buffer in parent.named_buffers():
        if name.endswith("router.bias"):
            buffer += 0.1 * torch.randn(buffer.shape)
    return parent


def child_of(growth: Growth, parent: Transformer) -> Transformer:
    child = Transformer(growth.config).eval()
    child.load_state_dict(growth.state(parent.state_dict()))
    return child


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    return model(torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(5)))


def difference(child: Transformer, parent: Transformer) -> float:
    expected = logits(parent)
    return float((logits(child) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)
def test_the_child_computes_what_its_parent_computes(
    way: Callable[[ModelConfig, int], Growth], factor: int, routing: dict[str, Any]
) -> None:
    parent = parent_of(config_of(**routing))
    growth = way(parent.config, factor)
    child = child_of(growth, parent)
    moe = growth.config.moe
    assert growth.preserves and moe is not None
    assert (moe.n_experts, moe.top_k) == (8 * factor, 2 * factor)
    assert difference(child, parent) <= 2e-5


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_route_would_be_seen(way: Callable[[ModelConfig, int], Growth]) -> None:
    parent = parent_of(config_of())
    child = child_of(way(parent.config, 2), parent)
    with torch.no_grad():
        experts = child.layers[1].ffn.experts
        for weight in (experts.w_gate, experts.w_up, experts.w_down):
            weight.copy_(weight.roll(2, dims=0))
    assert difference(child, parent) > 0.01


def test_duplicating_keeps_a_groups_score_of_its_two_best_and_splitting_is_refused() -> None:
    parent = parent_of(
        config_of(n_groups=2, top_groups=1, group_score="top2", gate="sigmoid", bias_balancing=True)
    )
    growth = duplicate_experts(parent.config, 2)
    assert growth.config.moe is not None and (growth.config.moe.n_groups, growth.config.moe.top_groups) == (
        4,
        2,
    )
    assert difference(child_of(growth, parent), parent) <= 2e-5
    with pytest.raises(ConfigError, match="group_score max"):
        split_experts(parent.config, 2)


def test_splitting_keeps_all_sizes_and_duplicating_multiplies_the_routed_ones() -> None:
    config = config_of()
    routed = 3 * 64 * 24
    split, doubled = split_experts(config, 2).config, duplicate_experts(config, 2).config
    more_router_rows = 8 * 64
    assert split.total_parameters == config.total_parameters + more_router_rows
    assert split.active_parameters == config.active_parameters + more_router_rows
    assert doubled.total_parameters == config.total_parameters + more_router_rows + 8 * routed
    assert doubled.active_parameters == config.active_parameters + more_router_rows + 2 * routed


def test_capacity_drops_the_same_tokens_in_training() -> None:
    parent = parent_of(config_of(capacity_factor=0.7)).train()
    child = child_of(duplicate_experts(parent.config, 2), parent).train()
    whole = parent_of(config_of()).train()
    assert difference(child, parent) <= 2e-5
    assert difference(parent, whole) > 1e-3  # some pairs were dropped


def test_noise_parts_the_copies_and_is_said_to_change_the_function() -> None:
    parent = parent_of(config_of())
    growth = duplicate_experts(parent.config, 2, noise=0.05)
    child = child_of(growth, parent)
    w_up = child.layers[1].ffn.experts.w_up
    assert not growth.preserves and difference(child, parent) > 1e-5
    assert not torch.equal(w_up[0], w_up[8])
    exact = child_of(duplicate_experts(parent.config, 2), parent).layers[1].ffn.experts.w_up
    assert torch.equal(exact[0], exact[8])


def test_what_cannot_be_grown_is_refused_with_its_reason() -> None:
    dense = replace(config_of(), moe=None)
    for way in WAYS:
        with pytest.raises(ConfigError, match="upcycle it first"):
            way(dense, 2)
        with pytest.raises(ConfigError, match="at least 2, not 1"):
            way(config_of(), 1)
    with pytest.raises(ConfigError, match="5 equal parts"):
        split_experts(config_of(), 5)
