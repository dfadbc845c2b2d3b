"""Growing experts keeps the function, and the tests would see a wrong route."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model.config import ConfigError, ModelConfig
from model.growth import upcycle_halves
from model.presets import PRESETS
from model.transformer import Transformer

PARENT = dataclasses.replace(PRESETS["tiny"], name="parent", moe=None, n_layers=3)


def parent_and_child(seed: int = 0) -> tuple[Transformer, Transformer]:
    torch.manual_seed(4)
    parent = Transformer(PARENT).eval()
    growth = upcycle_halves(PARENT, seed=seed)
    child = Transformer(growth.config).eval()
    child.load_state_dict(growth.state(parent.state_dict()))
    return parent, child


def logits(model: Transformer) -> torch.Tensor:
    tokens = torch.randint(PARENT.vocab_size, (2, 40), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(tokens)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_child_computes_what_its_parent_computes(seed: int) -> None:
    parent, child = parent_and_child(seed)
    expected = logits(parent)
    assert (logits(child) - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_the_child_has_half_shared_and_seven_experts() -> None:
    _, child = parent_and_child()
    assert child.config.moe is not None
    assert (child.config.moe.d_shared, child.config.moe.d_expert) == (64, 64)
    assert (child.config.moe.n_experts, child.config.moe.top_k) == (7, 2)
    assert ModelConfig.from_dict(child.config.to_dict()) == child.config


def test_perturbed_experts_show_a_wrong_route() -> None:
    """Equal copies hide mis-routing; once they differ, the layer must follow its router exactly."""
    _, child = parent_and_child()
    layer = child.layers[1].ffn
    with torch.no_grad():
        for weight in (layer.experts.w_gate, layer.experts.w_up, layer.experts.w_down):
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(6))
        x = torch.randn(50, PARENT.d_model, generator=torch.Generator().manual_seed(7))
        weights, chosen = layer.router(x)

        def by_hand(chosen: torch.Tensor) -> torch.Tensor:
            y = layer.shared(x)
            for t in range(50):
                for weight, e in zip(weights[t], chosen[t], strict=True):
                    h = torch.nn.functional.silu(layer.experts.w_gate[e] @ x[t]) * (
                        layer.experts.w_up[e] @ x[t]
                    )
                    y[t] += weight * (layer.experts.w_down[e] @ h)
            return y

        right, wrong = by_hand(chosen), by_hand((chosen + 1) % 7)
        assert (layer(x) - right).abs().max() < 1e-5
        assert (layer(x) - wrong).abs().max() > 0.05
    assert chosen.unique().numel() == 7  # every expert was on the way


def test_growth_needs_a_dense_parent_with_an_even_width() -> None:
    _, child = parent_and_child()
    with pytest.raises(ConfigError, match="already has experts"):
        upcycle_halves(child.config)
    with pytest.raises(ConfigError, match="odd"):
        upcycle_halves(dataclasses.replace(PARENT, d_ff=127))
