"""Every way from dense to experts keeps the logits, whatever the routing; noise does not; wrong routes would show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import ConfigError, ModelConfig
from model.growth import Growth, upcycle_copies, upcycle_halves, upcycle_slices
from model.presets import PRESETS
from model.transformer import Transformer

PARENT = replace(PRESETS["tiny"], name="parent", moe=None, vocab_size=50)
METHODS: list[Callable[..., Growth]] = [upcycle_halves, upcycle_copies, upcycle_slices]


def parent_of(config: ModelConfig = PARENT) -> Transformer:
    torch.manual_seed(4)
    return Transformer(config).eval()


def child_of(growth: Growth, parent: Transformer) -> Transformer:
    child = Transformer(growth.config).eval()
    child.load_state_dict(growth.state(parent.state_dict()))
    return child


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    return model(torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(5)))


def difference(growth: Growth, parent: Transformer) -> float:
    expected = logits(parent)
    return float((logits(child_of(growth, parent)) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "routing",
    [
        {},
        {"gate": "sigmoid", "bias_balancing": True},
        {"bias_balancing": True, "switch_loss": 0.1, "z_loss": 0.1},
    ],
    ids=["softmax", "sigmoid", "losses"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_child_computes_what_its_parent_computes(
    method: Callable[..., Growth], routing: dict[str, Any], seed: int
) -> None:
    growth = method(PARENT, seed=seed, **routing)
    assert growth.preserves
    assert difference(growth, parent_of()) <= 2e-5


@pytest.mark.parametrize(
    ("method", "groups"),
    [
        (partial(upcycle_copies, n_experts=8, top_k=2), {"n_groups": 4, "top_groups": 2}),
        (partial(upcycle_halves, n_experts=6, top_k=2), {"n_groups": 3, "top_groups": 1}),
        (partial(upcycle_slices, n_copies=4, n_slices=4, top_k=2), {"n_groups": 2, "top_groups": 1}),
        (
            partial(upcycle_slices, n_copies=4, n_slices=2, top_k=2),
            {"n_groups": 4, "top_groups": 2, "group_score": "top2"},
        ),
    ],
)
def test_grouped_children_compute_what_their_parent_computes(
    method: Callable[..., Growth], groups: dict[str, Any]
) -> None:
    growth = method(PARENT, bias_balancing=True, **groups)
    assert growth.config.moe is not None and growth.config.moe.n_groups == groups["n_groups"]
    assert difference(growth, parent_of()) <= 2e-5


@settings(max_examples=12, deadline=None)
@given(
    n_copies=st.integers(2, 5),
    n_slices=st.sampled_from([1, 2, 4, 8]),
    top_k=st.integers(1, 2),
    seed=st.integers(0, 100),
)
def test_any_number_of_slices_and_copies_is_exact(
    n_copies: int, n_slices: int, top_k: int, seed: int
) -> None:
    config = replace(PARENT, n_layers=1)
    growth = upcycle_slices(config, n_copies=n_copies, n_slices=n_slices, top_k=top_k, seed=seed)
    assert difference(growth, parent_of(config)) <= 2e-5


def test_shapes_and_active_sizes_are_those_of_the_method() -> None:
    halves, copies, slices = (method(PARENT).config.moe for method in METHODS)
    assert halves is not None and copies is not None and slices is not None
    d_ff = PARENT.d_ff
    assert (halves.n_experts, halves.top_k, halves.d_expert, halves.d_shared) == (7, 2, d_ff // 2, d_ff // 2)
    assert (copies.n_experts, copies.top_k, copies.d_expert, copies.d_shared) == (8, 2, d_ff, 0)
    assert (slices.n_experts, slices.top_k, slices.d_expert) == (16, 4, d_ff // 4)
    assert slices.top_k * slices.d_expert == d_ff  # as active as the parent
    for method in METHODS:
        growth = method(PARENT)
        assert (
            sum(p.numel() for p in child_of(growth, parent_of()).parameters())
            == growth.config.total_parameters
        )


def test_slices_with_wrong_routes_are_far_off() -> None:
    """The slices of a copy are different experts: taking two of one kind would be seen."""
    parent = parent_of()
    growth = upcycle_slices(PARENT, n_copies=4, n_slices=4)
    child = child_of(growth, parent)
    with torch.no_grad():
        for block in child.layers:
            block.ffn.router.weight[1] += 1.0  # slice 1 of copy 0 is chosen apart from its copy
    expected = logits(parent)
    assert (logits(child) - expected).abs().max() > 0.02 * expected.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_perturbed_experts_are_routed_as_the_router_says(method: Callable[..., Growth]) -> None:
    """Equal copies hide mis-routing; once they differ, the layer must follow its router exactly."""
    child = child_of(method(PARENT), parent_of())
    layer, rng = child.layers[1].ffn, torch.Generator().manual_seed(6)
    experts, n_experts = layer.experts, layer.config.n_experts
    with torch.no_grad():
        for weight in (experts.w_gate, experts.w_up, experts.w_down):
            weight += 0.1 * torch.randn(weight.shape, generator=rng)
        x = torch.randn(40, PARENT.d_model, generator=rng)
        weights, chosen = layer.router(x)

        def by_hand(chosen_TK: Tensor) -> Tensor:
            y = torch.zeros_like(x) if layer.shared is None else layer.shared(x)
            for t in range(40):
                for weight, e in zip(weights[t], chosen_TK[t], strict=True):
                    h = F.silu(experts.w_gate[e] @ x[t]) * (experts.w_up[e] @ x[t])
                    y[t] += weight * (experts.w_down[e] @ h)
            return y

        scale = layer(x).abs().max()
        assert (layer(x) - by_hand(chosen)).abs().max() < 1e-5 * scale
        assert (layer(x) - by_hand((chosen + 1) % n_experts)).abs().max() > 0.02 * scale
    assert chosen.unique().numel() == n_experts  # every expert was on the way


@pytest.mark.parametrize("method", METHODS)
def test_noise_parts_the_experts_and_is_said_to_change_the_function(method: Callable[..., Growth]) -> None:
    parent, growth = parent_of(), method(PARENT, noise=0.05)
    assert not growth.preserves
    assert 1e-4 < difference(growth, parent) < 0.5
    state, exact = growth.state(parent.state_dict()), method(PARENT).state(parent.state_dict())
    for name, tensor in state.items():
        if ".experts." in name:
            rms = exact[name].square().mean().sqrt()
            assert 0.04 < (tensor - exact[name]).square().mean().sqrt() / rms < 0.06
        else:
            assert torch.equal(tensor, exact[name])
    assert all(torch.equal(tensor, growth.state(parent.state_dict())[name]) for name, tensor in state.items())


def test_dtype_of_weights_stays_and_balancing_biases_are_fp32() -> None:
    parent = parent_of().cast_blocks(torch.bfloat16)
    state = upcycle_copies(PARENT, bias_balancing=True).state(parent.state_dict())
    assert state["layers.0.ffn.experts.w_up"].dtype is torch.bfloat16
    assert state["layers.0.ffn.router.weight"].dtype is torch.bfloat16
    assert state["layers.0.ffn.router.bias"].dtype is torch.float32


def test_shared_feed_forwards_and_prediction_modules_grow_too() -> None:
    config = replace(PARENT, n_layers=3, ffn_owners=(0, 0, 2), attention_owners=(0, 1, 0), n_ahead=1)
    parent, growth = parent_of(config), upcycle_slices(config)
    child, tokens = child_of(growth, parent), torch.arange(24).view(1, 24)
    assert difference(growth, parent) <= 2e-5
    with torch.no_grad():
        (expected,) = parent.mtp_logits(parent.hidden(tokens), tokens)
        (found,) = child.mtp_logits(child.hidden(tokens), tokens)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_what_cannot_be_grown_is_refused_with_its_reason() -> None:
    moe = upcycle_copies(PARENT).config
    for method in METHODS:
        with pytest.raises(ConfigError, match="already has experts"):
            method(moe)
        with pytest.raises(ConfigError, match="ffn_bias"):
            method(replace(PARENT, ffn_bias=True))
    with pytest.raises(ConfigError, match="odd d_ff"):
        upcycle_halves(replace(PARENT, d_ff=127))
    with pytest.raises(ConfigError, match="3 equal parts"):
        upcycle_slices(PARENT, n_slices=3)
    with pytest.raises(ConfigError, match="split copies"):
        upcycle_slices(PARENT, n_copies=2, n_slices=4, n_groups=4, top_groups=4)


def test_a_state_of_another_model_is_refused_by_name() -> None:
    growth = upcycle_copies(PARENT)
    state = parent_of().state_dict()
    with pytest.raises(ConfigError, match=r"layers.1.norm_of_nothing is unexpected"):
        growth.state({**state, "layers.1.norm_of_nothing": torch.zeros(1)})
    del state["layers.1.ffn.w_up"]
    with pytest.raises(ConfigError, match=r"layers.1.ffn.w_up is missing"):
        growth.state(state)


@pytest.mark.parametrize(
    ("growth", "has_gradient"),
    [
        (upcycle_halves(PARENT), False),
        (upcycle_copies(PARENT), False),
        (upcycle_copies(PARENT, noise=0.1), True),
        (upcycle_copies(PARENT, noise=0.1, top_k=1), False),
        (upcycle_slices(PARENT), True),
    ],
)
def test_a_router_learns_from_the_output_where_its_experts_differ(growth: Growth, has_gradient: bool) -> None:
    child = child_of(growth, parent_of()).train()
    tokens = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(6))
    F.cross_entropy(child(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradient = child.layers[0].ffn.router.weight.grad
    assert (float(gradient.abs().max()) > 1e-4) is has_gradient
