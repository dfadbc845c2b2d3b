"""Muon against singular value decompositions, torch's own two-dimensional Muon, and AdamW for the rest."""

from __future__ import annotations

import copy

import pytest
import torch

from model.training.config.recipe import Recipe
from model.training.optim.choice import adamw, optimizer_for, set_learning_rate
from model.training.optim.muon import Muon, is_muon_matrix, orthogonalised
from tests.model.training.run.training_runs import MOE, model_of

RECIPE = Recipe(optimizer="muon", learning_rate=0.02, weight_decay=0.1)


def conditioned(*shape: int) -> torch.Tensor:
    """A matrix, or a stack, whose singular values are within a factor of ten."""
    u, _, v = torch.linalg.svd(torch.randn(*shape), full_matrices=False)
    singular = torch.linspace(0.1, 1.0, min(shape[-2:]))
    return u * singular @ v


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16), (3, 24, 40), (2, 5, 40, 24)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    update = conditioned(*shape)
    found = orthogonalised(update).float()
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    in_its_basis = u.mT @ found @ v.mT
    values = in_its_basis.diagonal(dim1=-2, dim2=-1)
    assert found.shape == update.shape
    assert values.min() > 0.6 and values.max() < 1.3
    beside = in_its_basis - torch.diag_embed(values)
    assert beside.abs().max() < 0.1


def test_the_size_of_a_gradient_does_not_matter() -> None:
    torch.manual_seed(0)
    update = conditioned(12, 20)
    torch.testing.assert_close(orthogonalised(update * 1e-4), orthogonalised(update), rtol=0, atol=0.05)


def test_an_expert_without_a_gradient_does_not_disturb_the_others() -> None:
    torch.manual_seed(0)
    stack = conditioned(3, 12, 20)
    stack[1] = 0
    found = orthogonalised(stack)
    assert not found[1].any() and torch.isfinite(found).all()
    torch.testing.assert_close(found[2], orthogonalised(stack[2]), rtol=0, atol=0.05)


def test_experts_are_orthogonalised_one_by_one() -> None:
    """One expert with a thousandfold gradient leaves the others' update as it is."""
    torch.manual_seed(0)
    stack = conditioned(3, 12, 20)
    alone = orthogonalised(stack)
    stack[0] *= 1000
    torch.testing.assert_close(orthogonalised(stack)[1:], alone[1:], rtol=0, atol=1e-6)


def test_only_matrices_of_blocks_are_muon_s() -> None:
    names = {name for name, p in model_of().named_parameters() if is_muon_matrix(name, p)}
    ends = {name.split(".", 2)[2] for name in names}
    assert ends == {
        "attention.w_q",
        "attention.w_k",
        "attention.w_v",
        "attention.w_o",
        "ffn.experts.w_gate",
        "ffn.experts.w_up",
        "ffn.experts.w_down",
        "ffn.shared.w_gate",
        "ffn.shared.w_up",
        "ffn.shared.w_down",
    }


def test_a_matrix_moves_as_torch_s_own_muon_moves_it() -> None:
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(weight) for weight in torch.randn(2, 24, 40)[[0, 0]])
    ours = Muon([("layers.0.w", mine)], RECIPE)
    reference = torch.optim.Muon(
        [theirs],
        lr=RECIPE.learning_rate,
        weight_decay=RECIPE.weight_decay,
        momentum=RECIPE.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    for step in range(4):
        mine.grad = torch.randn(24, 40, generator=torch.Generator().manual_seed(step))
        theirs.grad = mine.grad.clone()
        ours.step()
        reference.step()
    moved = (mine - theirs).abs().max() / (RECIPE.learning_rate * 4)
    assert moved < 0.02  # of the distance: both iterate in bf16, with different kernels


def test_everything_else_moves_as_adamw_moves_it() -> None:
    mine = model_of()
    theirs = copy.deepcopy(mine)
    ours, reference = optimizer_for(mine, RECIPE), adamw(theirs.parameters(), RECIPE)
    for step in range(3):
        for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            generator = torch.Generator().manual_seed(step * 1000 + len(name))
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        ours.step()
        reference.step()
    for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q) is not is_muon_matrix(name, p), name


def test_updates_have_the_size_of_adamw_s() -> None:
    """So that one learning rate serves both."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(48, 96))
    ours = Muon([("layers.0.w", weight)], Recipe(optimizer="muon", learning_rate=1.0, weight_decay=0.0))
    weight.grad = torch.randn(48, 96)
    ours.step()
    assert 0.1 < weight.square().mean().sqrt() < 0.3


def test_one_rate_reaches_all_groups_and_frozen_parameters_stay_out() -> None:
    model = model_of(MOE)
    model.embedding.requires_grad_(False)
    optimizer = optimizer_for(model, RECIPE)
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, RECIPE.weight_decay}
    assert not any(p is model.embedding for group in optimizer.param_groups for p in group["params"])


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="closure"):
        optimizer_for(model_of(), RECIPE).step(lambda: 0.0)
