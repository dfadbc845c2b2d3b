"""Padding of a batch counts nowhere: not in expert load, not in metrics, not in auxiliary losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.config import MoEConfig
from model.layers.moe import metrics
from model.layers.moe.auxiliary_losses import balance_loss, router_z_loss
from model.layers.moe.layer import MoELayer, count_tokens_only
from model.layers.recompute import Checkpointing
from model.training.config.recipe import Recipe
from model.training.run.trainer import Trainer
from tests.model.training.run.training_runs import MOE, model_of, packed_batch

CONFIG = MoEConfig(
    8, 4, 6, 2, bias_balancing=True, gate="sigmoid", switch_loss=0.1, sequence_loss=0.2, z_loss=0.3
)
LENGTHS = (5, 2, 0, 3)  # of four sequences of five positions


def layer_of(config: MoEConfig = CONFIG) -> MoELayer:
    torch.manual_seed(1)
    return MoELayer(config).double().train()


def padded(seed: int = 0) -> tuple[Tensor, Tensor]:
    """x [B, S, D] and which of its positions are tokens."""
    x_BSD = torch.randn(
        len(LENGTHS), 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    is_token_BS = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    return x_BSD, is_token_BS


def auxiliary_gradients(layer: MoELayer, x: Tensor, is_token: Tensor | None) -> Tensor:
    """What the auxiliary losses alone give the router: the output itself has no gradient."""
    layer.router.weight.grad = None
    with count_tokens_only(layer, is_token):
        (layer(x) * 0).sum().backward()
    assert layer.router.weight.grad is not None
    return layer.router.weight.grad.clone()


@pytest.mark.parametrize("name", ["switch_loss", "z_loss"])
def test_losses_over_the_batch_are_those_of_its_tokens_alone(name: str) -> None:
    weights: dict[str, Any] = {"switch_loss": 0.0, "sequence_loss": 0.0, "z_loss": 0.0, name: 0.5}
    layer = layer_of(replace(CONFIG, **weights))
    x_BSD, is_token_BS = padded()
    expected = auxiliary_gradients(layer, x_BSD[is_token_BS], None)
    torch.testing.assert_close(auxiliary_gradients(layer, x_BSD, is_token_BS), expected)
    assert not torch.allclose(auxiliary_gradients(layer, x_BSD, None), expected)


def test_the_loss_within_sequences_is_the_mean_over_those_with_tokens() -> None:
    layer = layer_of()
    x_BSD, is_token_BS = padded()
    (_, experts_TK), scores = layer.router(x_BSD.flatten(0, 1), return_scores=True)
    share_TE = scores.scores_TE / scores.scores_TE.sum(-1, keepdim=True)
    each = [
        balance_loss(share_TE[5 * row : 5 * row + n], experts_TK[5 * row : 5 * row + n], 1)
        for row, n in enumerate(LENGTHS)
        if n
    ]
    found = balance_loss(share_TE, experts_TK, len(LENGTHS), is_token_BS.flatten())
    torch.testing.assert_close(found, torch.stack(each).mean())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 100))
def test_what_stands_on_padding_changes_nothing(seed: int, scale: float) -> None:
    layer = layer_of()
    metrics.watch(layer)
    x_BSD, is_token_BS = padded(seed)
    other_BSD = torch.where(is_token_BS[..., None], x_BSD, scale * torch.ones_like(x_BSD))
    first = auxiliary_gradients(layer, x_BSD, is_token_BS)
    [before] = metrics.collect(layer).values()
    torch.testing.assert_close(auxiliary_gradients(layer, other_BSD, is_token_BS), first)
    [after] = metrics.collect(layer).values()
    assert after.load == before.load and sum(after.load) == sum(LENGTHS) * 2
    assert after.n_tokens == before.n_tokens == sum(LENGTHS)
    assert after.losses == pytest.approx(before.losses)


def test_load_counts_tokens_only() -> None:
    layer = layer_of()
    x_BSD, is_token_BS = padded()
    with count_tokens_only(layer, is_token_BS):
        layer(x_BSD)
    assert layer.load_E is not None
    expected = torch.bincount(layer.router(x_BSD[is_token_BS]).experts_TK.flatten(), minlength=6)
    assert torch.equal(layer.load_E, expected)


def test_dropped_padding_is_no_dropped_token() -> None:
    layer = layer_of(replace(CONFIG, capacity_factor=0.5))
    metrics.watch(layer)
    x_BSD = torch.ones(2, 5, 8, dtype=torch.float64)  # all alike: they want the same experts
    is_token_BS = torch.arange(5) < torch.tensor([2, 0])[:, None]
    with count_tokens_only(layer, is_token_BS):
        layer(x_BSD)
    [found] = metrics.collect(layer).values()
    assert found.dropped_share == 0.0  # two places an expert: the first two rows, which are tokens
    with count_tokens_only(layer, ~is_token_BS):
        layer(x_BSD)
    [found] = metrics.collect(layer).values()
    assert found.dropped_share == 1.0


def test_a_single_token_among_padding_weighs_as_much_as_alone() -> None:
    torch.manual_seed(0)
    logits_TE, experts_TK = torch.randn(5, 6), torch.randint(6, (5, 2))
    share_TE, is_token_T = logits_TE.softmax(-1), torch.arange(5) == 3
    alone = router_z_loss(logits_TE[3:4]), balance_loss(share_TE[3:4], experts_TK[3:4], 1)
    among = router_z_loss(logits_TE, is_token_T), balance_loss(share_TE, experts_TK, 1, is_token_T)
    torch.testing.assert_close(among, alone)


def test_a_batch_of_padding_alone_has_no_loss() -> None:
    layer = layer_of()
    x_BSD, is_token_BS = padded()
    nothing = torch.zeros_like(is_token_BS)
    assert not auxiliary_gradients(layer, x_BSD, nothing).any()
    assert float(router_z_loss(torch.ones(3, 2), torch.zeros(3, dtype=torch.bool))) == 0.0


def test_without_padding_nothing_changes() -> None:
    layer = layer_of()
    x_BSD, is_token_BS = padded()
    everything = auxiliary_gradients(layer, x_BSD, torch.ones_like(is_token_BS))
    torch.testing.assert_close(everything, auxiliary_gradients(layer, x_BSD, None))


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_a_recomputed_pass_leaves_padding_out_too(is_reentrant: bool) -> None:
    layer = layer_of()
    x_BSD, is_token_BS = padded()
    expected = auxiliary_gradients(layer, x_BSD, is_token_BS)
    layer.router.weight.grad = None
    with count_tokens_only(layer, is_token_BS):
        y = checkpoint(layer, x_BSD.requires_grad_(), use_reentrant=is_reentrant)
        (y * 0).sum().backward()
    torch.testing.assert_close(layer.router.weight.grad, expected)


def test_a_context_that_an_error_ends_is_left() -> None:
    layer = layer_of()
    with pytest.raises(KeyError), count_tokens_only(layer, torch.ones(1, 1, dtype=torch.bool)):
        raise KeyError
    assert layer.is_token is None


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_training_counts_the_tokens_of_packed_batches(checkpointing: Checkpointing) -> None:
    assert MOE.moe is not None
    model = model_of(replace(MOE, moe=replace(MOE.moe, switch_loss=0.1)))
    model.checkpointing = checkpointing
    trainer = Trainer(model, Recipe(warmup_steps=1))
    metrics.watch(model)
    batch = packed_batch()
    assert batch.n_tokens < batch.n_cells
    trainer.update([batch])
    found = metrics.collect(model)
    assert found and {layer.n_tokens for layer in found.values()} == {batch.n_tokens}
    assert {sum(layer.load) for layer in found.values()} == {batch.n_tokens * MOE.moe.top_k}
