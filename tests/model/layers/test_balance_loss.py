"""Auxiliary losses against plain formulas, and their attached gradients against adding the losses by hand, in fp64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import ModelConfig, MoEConfig
from model.layers.moe.auxiliary_losses import LOSSES, attach, balance_loss, router_z_loss
from model.layers.moe.layer import MoELayer, moe_layers, set_loss_scale
from model.transformer import Transformer

pytestmark = pytest.mark.slow

ALL = {"switch_loss": 0.3, "sequence_loss": 0.7, "z_loss": 0.2}
KINDS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sigmoid": {"gate": "sigmoid"},
    "biased": {"gate": "sigmoid", "bias_balancing": True},
    "groups": {"n_groups": 3, "top_groups": 2, "normalise_top_k": False},
    "bounded": {"capacity_factor": 0.5},
}


def make_layer(**changes: Any) -> MoELayer:
    torch.manual_seed(0)
    layer = MoELayer(
        MoEConfig(**{"d_model": 8, "d_expert": 4, "n_experts": 6, "top_k": 2, **changes})
    ).double()
    if layer.router.bias is not None:
        layer.router.bias.normal_(std=0.3)
    return layer.train()


def losses_by_hand(layer: MoELayer, x_BSD: Tensor) -> dict[str, Tensor]:
    """From the papers, one sequence and one token after the other."""
    config = layer.config
    n_experts, top_k = config.n_experts, config.top_k

    def even(x_SD: Tensor) -> Tensor:
        count_E, sum_E = (
            torch.zeros(n_experts, dtype=torch.float64),
            torch.zeros(n_experts, dtype=torch.float64),
        )
        for x_D in x_SD:
            logits_E = layer.router.weight @ x_D
            score_E = logits_E.sigmoid() if config.gate == "sigmoid" else logits_E.softmax(0)
            chosen_by_E = score_E.detach()
            if config.n_groups > 1:
                groups = chosen_by_E.view(config.n_groups, -1)
                out = groups.amax(1).argsort(descending=True)[config.top_groups :]
                chosen_by_E = groups.index_fill(0, out, -1.0).flatten()
            for e in chosen_by_E.argsort(descending=True)[:top_k].tolist():  # without the bias
                count_E[e] += 1
            sum_E = sum_E + score_E / score_E.sum()
        share_E, mean_E = count_E / (top_k * len(x_SD)), sum_E / len(x_SD)
        return n_experts * (share_E * mean_E).sum()

    rows = x_BSD.flatten(0, 1)
    z = torch.stack([torch.log((layer.router.weight @ x_D).exp().sum()) ** 2 for x_D in rows]).mean()
    return {"switch": even(rows), "sequence": torch.stack([even(x_SD) for x_SD in x_BSD]).mean(), "z": z}


def weighted_by_hand(layer: MoELayer, x_BSD: Tensor) -> Tensor:
    """What a layer of the weights `ALL` adds to the training loss."""
    losses = losses_by_hand(layer, x_BSD)
    return torch.stack([ALL[f"{name}_loss"] * losses[name] for name in LOSSES]).sum()


def without_losses(layer: MoELayer) -> MoELayer:
    """A layer of the same weights that attaches nothing."""
    plain = MoELayer(replace(layer.config, switch_loss=0.0, sequence_loss=0.0, z_loss=0.0)).double()
    plain.load_state_dict(layer.state_dict())
    return plain.train()


def gradients(loss: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, (x, *parameters), materialize_grads=True)
    return dict(zip(("x", *names), found, strict=True))


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-11, atol=1e-13, msg=name)


@settings(max_examples=30, deadline=None)
@given(n_sequences=st.integers(1, 3), length=st.integers(1, 5), seed=st.integers(0, 1000))
def test_balance_loss_is_the_mean_over_sequences_of_shares_times_scores(
    n_sequences: int, length: int, seed: int
) -> None:
    layer = make_layer()
    x = torch.randn(
        n_sequences, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    (_, chosen), scores = layer.router(x.flatten(0, 1), return_scores=True)
    expected = losses_by_hand(layer, x)
    assert balance_loss(scores.scores_TE, chosen, 1).item() == pytest.approx(
        expected["switch"].item(), rel=1e-12
    )
    found = balance_loss(scores.scores_TE, chosen, n_sequences).item()
    assert found == pytest.approx(expected["sequence"].item(), rel=1e-12)
    assert router_z_loss(scores.logits_TE).item() == pytest.approx(expected["z"].item(), rel=1e-12)


def test_an_even_router_has_balance_loss_one_and_a_stuck_one_more() -> None:
    even_TE = torch.full((6, 4), 0.25)
    round_robin = torch.tensor([[0, 1], [2, 3]] * 3)
    assert balance_loss(even_TE, round_robin, 1).item() == pytest.approx(1.0)
    stuck_TE = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(6, 1)
    assert balance_loss(stuck_TE, torch.zeros(6, 1, dtype=torch.int64), 1).item() == pytest.approx(4.0)


def test_balance_within_each_sequence_is_stricter_than_over_the_batch() -> None:
    """Each sequence is stuck on its own expert: even over the batch, as uneven as can be within each."""
    share_TE = torch.eye(2).repeat_interleave(3, 0)
    chosen_T1 = share_TE.argmax(-1, keepdim=True)
    assert balance_loss(share_TE, chosen_T1, 1).item() == pytest.approx(1.0)
    assert balance_loss(share_TE, chosen_T1, 2).item() == pytest.approx(2.0)


@pytest.mark.parametrize("shape", [(0, 8), (0, 3, 8), (2, 0, 8)])
def test_losses_of_no_tokens_are_zero(shape: tuple[int, ...]) -> None:
    layer = make_layer(**ALL)
    y = layer(torch.zeros(shape, dtype=torch.float64, requires_grad=True))
    y.sum().backward()
    assert layer.router.weight.grad is not None and not layer.router.weight.grad.any()


def call(layer: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = layer(x)
    return y


CHECKPOINTS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "plain": call,
    "non-reentrant": partial(checkpoint, use_reentrant=False),
    "reentrant": partial(checkpoint, use_reentrant=True),
}


@pytest.mark.parametrize("run", CHECKPOINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_attached_losses_have_the_gradients_of_losses_added_by_hand(kind: str, run: str) -> None:
    layer = make_layer(**ALL, **KINDS[kind], n_shared=1)
    plain = without_losses(layer)
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(3, 5, 8, dtype=torch.float64)
    expected = gradients((plain(x) * direction).sum() + weighted_by_hand(plain, x), plain, x)
    y = CHECKPOINTS[run](layer, x)
    torch.testing.assert_close(y, plain(x), rtol=0, atol=0)
    if run == "reentrant":  # it refuses torch.autograd.grad
        (y * direction).sum().backward()
        assert x.grad is not None
        found = {"x": x.grad} | {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    else:
        found = gradients((y * direction).sum(), layer, x)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_works_alone(name: str) -> None:
    layer = make_layer(**{f"{name}_loss": 0.5})
    plain = without_losses(layer)
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    expected = gradients(plain(x).sum() + 0.5 * losses_by_hand(plain, x)[name], plain, x)
    assert_same_gradients(gradients(layer(x).sum(), layer, x), expected)
    assert (
        expected["router.weight"] - gradients(plain(x).sum(), plain, x)["router.weight"]
    ).abs().max() > 1e-3


def test_rows_without_sequences_are_one_sequence() -> None:
    layer = make_layer(sequence_loss=0.5)
    plain = without_losses(layer)
    x = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    expected = gradients(plain(x).sum() + 0.5 * losses_by_hand(plain, x[None])["switch"], plain, x)
    assert_same_gradients(gradients(layer(x).sum(), layer, x), expected)


def test_accumulated_micro_batches_average_their_losses() -> None:
    layer = make_layer(**ALL)
    plain = without_losses(layer)
    parts = [torch.randn(2, 4, 8, dtype=torch.float64) for _ in range(3)]
    set_loss_scale(layer, 1 / 3)
    for x in parts:
        (layer(x).square().mean() / 3).backward()
    by_hand = torch.stack([plain(x).square().mean() + weighted_by_hand(plain, x) for x in parts]).mean()
    by_hand.backward()
    for parameter, expected in zip(layer.parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None and expected.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-11, atol=1e-13)


def test_the_scale_may_be_a_tensor_and_multiplies_only_the_losses() -> None:
    layer = make_layer(z_loss=1.0)
    x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    plain = without_losses(layer)
    set_loss_scale(layer, torch.tensor(4096.0))
    expected = gradients(plain(x).sum() + 4096 * losses_by_hand(plain, x)["z"], plain, x)
    assert_same_gradients(gradients(layer(x).sum(), layer, x), expected)


def test_a_layer_that_is_used_twice_attaches_the_losses_of_both_uses() -> None:
    layer = make_layer(**ALL)
    plain = without_losses(layer)
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    h = plain(x)
    by_hand = plain(h).sum() + weighted_by_hand(plain, x) + weighted_by_hand(plain, h)
    assert_same_gradients(gradients(layer(layer(x)).sum(), layer, x), gradients(by_hand, plain, x))


def test_inference_attaches_nothing() -> None:
    layer = make_layer(**ALL).eval()
    plain = without_losses(layer).eval()
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    found, expected = gradients(layer(x).sum(), layer, x), gradients(plain(x).sum(), plain, x)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in found.items())
    with torch.no_grad():
        assert torch.equal(layer.train()(x), plain(x))


def test_attach_passes_the_value_and_its_gradient_on() -> None:
    carrier = torch.randn(3, dtype=torch.bfloat16, requires_grad=True)
    loss = torch.tensor(2.0, requires_grad=True)
    attached = attach(carrier, loss, 0.25)
    assert torch.equal(attached, carrier) and attached.dtype == torch.bfloat16
    (attached * 3).sum().backward()
    assert carrier.grad is not None and carrier.grad.tolist() == [3.0] * 3
    assert loss.grad is not None and loss.grad.item() == 0.25


def test_second_derivatives_of_an_attached_loss_are_refused() -> None:
    x = torch.randn(3, requires_grad=True)
    attached = attach(x.square(), x.pow(3).sum())
    with pytest.raises(
        RuntimeError, match="have no second derivatives: set MoEConfig's weights of them to 0"
    ):
        torch.autograd.grad(attached.square().sum(), x, create_graph=True)


MODEL = ModelConfig(
    name="two-moe",
    vocab_size=32,
    d_model=16,
    n_layers=3,
    n_heads=2,
    n_kv_heads=1,
    d_head=8,
    d_ff=24,
    max_context=16,
    first_moe_layer=1,
    moe=MoEConfig(16, 8, 6, 2, n_shared=1, **ALL),
)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_a_transformer_trains_on_the_sum_of_all_its_layers_losses(checkpointing: str) -> None:
    torch.manual_seed(1)
    model = Transformer(MODEL).double().train()
    assert MODEL.moe is not None
    plain_moe = replace(MODEL.moe, switch_loss=0.0, sequence_loss=0.0, z_loss=0.0)
    plain = Transformer(replace(MODEL, moe=plain_moe)).double().train()
    plain.load_state_dict(model.state_dict())
    by_hand: list[Tensor] = []
    for layer in moe_layers(plain).values():
        layer.register_forward_pre_hook(
            lambda layer, inputs: by_hand.append(weighted_by_hand(layer, *inputs))
        )
    tokens = torch.randint(32, (2, 6))
    main_loss = plain(tokens).double().square().mean()
    assert len(by_hand) == 2
    (main_loss + torch.stack(by_hand).sum()).backward()
    model.checkpointing = checkpointing  # type: ignore[assignment]
    model(tokens).double().square().mean().backward()
    for (name, parameter), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None and expected.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-5, atol=1e-9, msg=name)
