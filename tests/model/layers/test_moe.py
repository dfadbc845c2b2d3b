"""Router and MoE layer: the seam's names, weights in fp32, and balance by bias."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import Gate, MoEConfig
from model.layers.moe import metrics
from model.layers.moe.balance import balance_experts
from model.layers.moe.layer import MoELayer, moe_layers
from model.layers.moe.load import expert_load
from model.layers.moe.router import Router

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


@pytest.mark.parametrize("shape", [(2, 5, 32), (1, 1, 32), (2, 3, 2, 32), (7, 32)])
def test_any_leading_dimensions_are_tokens(shape: tuple[int, ...]) -> None:
    layer = MoELayer(CONFIG).eval()
    x = torch.randn(shape)
    y = layer(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    torch.testing.assert_close(y.view(-1, 32), layer(x.view(-1, 32)), rtol=0, atol=0)


def test_inputs_need_not_be_contiguous() -> None:
    layer, x = MoELayer(CONFIG), torch.randn(5, 2, 32)
    torch.testing.assert_close(layer(x.transpose(0, 1)), layer(x).transpose(0, 1))


def test_gated_shared_experts_of_any_width() -> None:
    torch.manual_seed(4)
    config = MoEConfig(32, 16, 8, 3, n_shared=1, shared_width=20, gate_shared=True)
    layer = MoELayer(config).double()
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters() if name.startswith("shared")}
    assert shapes == {"shared_gate": (1, 32), "shared.w_gate": (20, 32)} | {
        "shared.w_up": (20, 32),
        "shared.w_down": (32, 20),
    }
    assert sum(p.numel() for p in layer.parameters()) == config.total_parameters
    x = torch.randn(6, 32, dtype=torch.float64)
    routed = layer.experts(x, *layer.router(x))
    for row, routed_D, y_D in zip(x, routed, layer(x), strict=True):
        assert layer.shared is not None and layer.shared_gate is not None
        openness = 1 / (1 + torch.exp(-(layer.shared_gate[0] @ row)))
        shared_D = layer.shared.w_down @ (F.silu(layer.shared.w_gate @ row) * (layer.shared.w_up @ row))
        torch.testing.assert_close(y_D, routed_D + openness * shared_D)


class Operations(TorchDispatchMode):
    """The names of all operations, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(layer: MoELayer, x: Tensor) -> list[str]:
    with Operations() as seen:
        layer(x)
    return seen.names


FOR_TRAINING: dict[str, Any] = {
    "switch_loss": 0.1,
    "sequence_loss": 0.1,
    "z_loss": 0.1,
    "capacity_factor": 0.5,
}


def test_inference_and_plain_training_do_no_extra_work() -> None:
    plain, loaded = MoELayer(CONFIG), MoELayer(replace(CONFIG, **FOR_TRAINING))
    metrics.watch(loaded)
    x = torch.randn(10, 32)
    expected = operations(plain.eval(), x)
    assert operations(loaded.eval(), x) == expected
    assert operations(plain.train(), x) == expected
    assert len(operations(loaded.train(), x)) > len(expected)
    assert sum("scatter" in name for name in expected) <= 1  # the experts' own count
    assert not any("logsumexp" in name or "bincount" in name for name in expected)


def test_routed_experts_may_be_applied_by_another_function() -> None:
    layer = MoELayer(replace(CONFIG, n_shared=0))
    x = torch.randn(5, 32)
    layer.experts.apply_experts = lambda x_TD, weights_TK, *_: x_TD * weights_TK.sum(-1, keepdim=True)
    torch.testing.assert_close(layer(x), x)


def test_balancing_a_model_moves_each_bias_once_and_clears_the_loads() -> None:
    layer = MoELayer(replace(CONFIG, bias_balancing=True)).train()
    other = MoELayer(CONFIG).train()
    model = torch.nn.Sequential(layer, other, layer)  # one layer in two places
    model(torch.randn(40, 32) + layer.router.weight[0].detach())
    assert list(moe_layers(model)) == ["0", "1"]
    assert layer.load_E is not None and layer.router.bias is not None
    load = layer.load_E.clone()
    assert int(load.sum()) == 2 * 40 * 3
    balance_experts(model, 0.25)
    assert torch.equal(layer.router.bias, 0.25 * torch.sign(load.float().mean() - load))
    assert layer.router.bias.any() and not layer.load_E.any()
    balance_experts(torch.nn.Linear(2, 2))  # nothing to balance
