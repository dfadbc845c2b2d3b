"""Router and MoE layer: the seam's names, weights in fp32, and balance by bias."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model.config import Gate, MoEConfig
from model.layers.moe import MoELayer
from model.layers.router import Router, expert_load

CONFIG = MoEConfig(d_model=32, d_expert=16, n_experts=8, top_k=3, n_shared=2)


def test_the_seams_parameters_have_fixed_names_and_shapes() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in MoELayer(CONFIG).state_dict().items()}
    assert shapes == {
        "router.weight": (8, 32),
        "experts.w_gate": (8, 16, 32),
        "experts.w_up": (8, 16, 32),
        "experts.w_down": (8, 32, 16),
        "shared.w_gate": (32, 32),
        "shared.w_up": (32, 32),
        "shared.w_down": (32, 32),
    }


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_router_weights_are_normalised_fp32_scores_of_the_best_experts(
    gate: Gate, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    router = Router(MoEConfig(d_model=32, d_expert=16, n_experts=8, top_k=3, gate=gate)).to(dtype)
    x = torch.randn(20, 32).to(dtype)
    weights, chosen = router(x)
    scores = (x.double() @ router.weight.double().T).softmax(-1)
    if gate == "sigmoid":
        scores = (x.double() @ router.weight.double().T).sigmoid()
    expected = scores.topk(3)
    assert weights.dtype == torch.float32
    assert torch.equal(chosen, expected.indices)
    assert torch.allclose(
        weights.double(), expected.values / expected.values.sum(-1, keepdim=True), atol=1e-6
    )


def test_weights_are_raw_scores_where_normalising_is_off() -> None:
    router = Router(
        MoEConfig(d_model=4, d_expert=4, n_experts=8, top_k=1, normalise_top_k=False, routed_scale=2.0)
    )
    x = torch.randn(5, 4)
    assert torch.allclose(router(x).weights_TK[:, 0], 2 * F.linear(x, router.weight).softmax(-1).amax(-1))


def test_layer_is_the_sum_of_shared_and_weighted_experts() -> None:
    torch.manual_seed(1)
    layer = MoELayer(CONFIG).double()
    x = torch.randn(6, 32, dtype=torch.float64)

    def swiglu(row: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        return down @ (F.silu(gate @ row) * (up @ row))

    assert layer.shared is not None
    weights, chosen = layer.router(x)
    for row, weights_K, chosen_K, y in zip(x, weights, chosen, layer(x), strict=True):
        expected = swiglu(row, layer.shared.w_gate, layer.shared.w_up, layer.shared.w_down)
        for weight, e in zip(weights_K, chosen_K, strict=True):
            experts = layer.experts
            expected = expected + weight * swiglu(row, experts.w_gate[e], experts.w_up[e], experts.w_down[e])
        assert torch.allclose(y, expected, atol=1e-6)


def test_bias_changes_the_choice_but_not_the_weight() -> None:
    torch.manual_seed(2)
    config = MoEConfig(d_model=32, d_expert=16, n_experts=8, top_k=2, bias_balancing=True)
    router, x = Router(config), torch.randn(50, 32)
    assert router.bias is not None
    router.bias[6] = 10.0
    weights, chosen = router(x)
    assert (chosen[:, 0] == 6).all()
    scores = F.linear(x, router.weight).softmax(-1).gather(-1, chosen)
    assert torch.allclose(weights, scores / scores.sum(-1, keepdim=True), atol=1e-6)


def test_balancing_evens_out_a_skewed_load() -> None:
    torch.manual_seed(3)
    layer = MoELayer(MoEConfig(d_model=32, d_expert=4, n_experts=8, top_k=2, bias_balancing=True))
    x = torch.randn(400, 32) + 2 * layer.router.weight[0].detach()  # everybody's favourite is expert 0
    before = expert_load(layer.router(x).experts_TK, 8).max()
    for _ in range(300):
        layer(x)
        layer.balance(rate=2e-3)
    after = expert_load(layer.router(x).experts_TK, 8).max()
    assert before > 250 and after < 150  # the mean is 100


def test_balancing_without_a_bias_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="bias_balancing"):
        MoELayer(CONFIG).balance()
