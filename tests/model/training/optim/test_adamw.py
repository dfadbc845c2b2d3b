"""Our AdamW is torch's, with torch's clipping before it: numbers, state, and wherever the kernel does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.layers.watched import torch_instead
from model.training.config.recipe import Recipe
from model.training.optim import adamw_fused
from model.training.optim.adamw import MOMENTS, AdamW
from model.training.optim.choice import adamw, optimizer_for
from tests.model.training.run.training_runs import same_state
from tests.needs_torch import needs_kernels

SHAPES = ((7, 33), (40,), (3, 5, 11), (130, 128))
RECIPE = Recipe(learning_rate=1e-2)


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=rng).to(dtype)) for shape in SHAPES]


def give_gradients(seed: int, *models: list[nn.Parameter]) -> None:
    rng = torch.Generator().manual_seed(100 + seed)
    for same in zip(*models, strict=True):
        gradient = torch.randn(same[0].shape, generator=rng)
        for parameter in same:
            parameter.grad = gradient.to(parameter.dtype, copy=True)


def pair(**more: Any) -> tuple[list[nn.Parameter], AdamW, list[nn.Parameter], torch.optim.AdamW]:
    mine, theirs = parameters(**more), parameters(**more)
    ours = adamw(mine, RECIPE, AdamW)
    assert isinstance(ours, AdamW)
    return mine, ours, theirs, adamw(theirs, RECIPE)


def test_the_recipe_s_adamw_is_this_one() -> None:
    optimizer = optimizer_for(nn.Linear(3, 3), RECIPE)
    assert type(optimizer) is AdamW
    assert type(adamw(parameters(), RECIPE)) is torch.optim.AdamW


@needs_kernels
@pytest.mark.parametrize("max_norm", [1.0, 1e9], ids=["clipped", "not clipped"])
def test_clipping_and_steps_are_torch_s(max_norm: float) -> None:
    mine, ours, theirs, reference = pair()
    for seed in range(20):
        give_gradients(seed, mine, theirs)
        given = [parameter.grad.clone() for parameter in mine if parameter.grad is not None]
        norm = ours.clip_grad_norm_(mine, max_norm)
        expected = nn.utils.clip_grad_norm_(theirs, max_norm)
        torch.testing.assert_close(norm, expected, rtol=2e-6, atol=0)
        ours.step()
        reference.step()
        # Nothing but the step has applied the clipping.
        assert all(torch.equal(p.grad, g) for p, g in zip(mine, given, strict=True))  # type: ignore[arg-type]
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-6)
        for key, value in reference.state[q].items():
            found = ours.state[p][key]
            assert (found.dtype, found.shape, found.device) == (value.dtype, value.shape, value.device)
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-7)
        assert ours.state[p].keys() == reference.state[q].keys()


def test_states_are_exchanged_with_torch_s() -> None:
    mine, ours, theirs, reference = pair()
    give_gradients(0, mine, theirs)
    ours.step()
    reference.load_state_dict(copy.deepcopy(ours.state_dict()))
    for p, q in zip(mine, theirs, strict=True):
        q.data.copy_(p.data)
    give_gradients(1, mine, theirs)
    ours.step()
    reference.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    ours.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert same_state(ours.state[mine[0]], reference.state[theirs[0]])


@needs_kernels
def test_a_saved_state_goes_on_with_the_same_bits() -> None:
    mine, ours, others, other = [*pair()[:2], *pair()[:2]]
    for seed in range(2):
        give_gradients(seed, mine)
        ours.step()
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    for p, q in zip(mine, others, strict=True):
        q.data.copy_(p.data)
    for seed in range(2, 4):
        give_gradients(seed, mine, others)
        ours.step()
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, others, strict=True))


def test_moments_that_were_laid_out_otherwise_are_the_same_moments() -> None:
    mine, ours, others, other = [*pair()[:2], *pair()[:2]]
    give_gradients(0, mine, others)
    ours.step()
    other.step()
    for state in other.state.values():
        for name in MOMENTS:
            if state[name].ndim > 1:
                state[name] = state[name].mT.contiguous().mT
    give_gradients(1, mine, others)
    ours.step()
    other.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, others, strict=True))


@needs_kernels
def test_parameters_without_a_gradient_stay() -> None:
    mine, ours, *_ = pair()
    before = mine[0].detach().clone()
    give_gradients(0, mine)
    mine[0].grad = None
    ours.clip_grad_norm_(mine, 1.0)
    ours.step()
    assert torch.equal(mine[0], before) and not ours.state.get(mine[0])
    assert ours.state[mine[1]]["step"] == 1


def with_amsgrad(ours: AdamW, theirs: torch.optim.AdamW) -> None:
    for group in (*ours.param_groups, *theirs.param_groups):
        group["amsgrad"] = True


def upwards(ours: AdamW, theirs: torch.optim.AdamW) -> None:
    for group in (*ours.param_groups, *theirs.param_groups):
        group["maximize"] = True


def turned_about(ours: AdamW, theirs: torch.optim.AdamW) -> None:
    for group in (*ours.param_groups, *theirs.param_groups):
        for parameter in group["params"]:
            if parameter.ndim > 1:
                parameter.data = parameter.data.mT.contiguous().mT


@pytest.mark.parametrize("change", [None, with_amsgrad, upwards, turned_about])
def test_elsewhere_it_is_torch_s_bit_by_bit(change: Callable[..., None] | None) -> None:
    mine, ours, theirs, reference = pair(dtype=torch.float32 if change else torch.bfloat16)
    if change:
        change(ours, reference)
    for seed in range(3):
        give_gradients(seed, mine, theirs)
        with torch_instead():  # so that both clip by the same bits
            norm = ours.clip_grad_norm_(mine, 1.0)
        assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, 1.0))
        ours.step()
        reference.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))


def test_a_factor_that_the_kernel_did_not_apply_is_applied() -> None:
    mine, ours, theirs, reference = pair()
    give_gradients(0, mine, theirs)
    ours.clip_grad_norm_(mine, 0.5)
    nn.utils.clip_grad_norm_(theirs, 0.5)
    with torch_instead():
        ours.step()
    reference.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours.state[p]["exp_avg"], reference.state[q]["exp_avg"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("wrong", [0.0, float("inf")])
def test_a_scaler_decides_whether_anything_moves(wrong: float) -> None:
    mine, ours, theirs, reference = pair()
    mine_before = [parameter.detach().clone() for parameter in mine]
    for chosen, optimizer in ((mine, ours), (theirs, reference)):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.zeros(()))
        give_gradients(0, chosen)
        chosen[0].grad += wrong  # type: ignore[operator]
        scaler.unscale_(optimizer)
        if isinstance(optimizer, AdamW):
            optimizer.clip_grad_norm_(chosen, 1.0)
        else:
            nn.utils.clip_grad_norm_(chosen, 1.0)
        scaler.step(optimizer)
        scaler.update()
    for p, q, before in zip(mine, theirs, mine_before, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
        assert torch.equal(p, before) is bool(wrong)


@pytest.mark.parametrize("wrong", ["nan", "inf"])
def test_a_norm_that_is_no_number_spoils_what_torch_s_spoils(wrong: str) -> None:
    mine, ours, theirs, reference = pair()
    give_gradients(0, mine, theirs)
    for parameter in (mine[1], theirs[1]):
        parameter.grad[3] = float(wrong)  # type: ignore[index]
    assert str(float(ours.clip_grad_norm_(mine, 1.0))) == wrong
    nn.utils.clip_grad_norm_(theirs, 1.0)
    ours.step()
    reference.step()
    for p, q in zip(mine, theirs, strict=True):
        assert torch.equal(p.isnan(), q.isnan())
        assert p.isnan().any() or wrong == "inf"


@needs_kernels
def test_new_gradients_are_not_clipped_by_an_old_norm() -> None:
    mine, ours, theirs, reference = pair()
    give_gradients(0, mine)
    ours.clip_grad_norm_(mine, 1e-3)
    ours.zero_grad()
    give_gradients(1, mine, theirs)
    ours.step()
    reference.step()
    give_gradients(2, mine, theirs)  # nor by one that has been used
    ours.step()
    reference.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(
            ours.state[p]["exp_avg"], reference.state[q]["exp_avg"], rtol=1e-5, atol=1e-7
        )


def test_a_closure_is_asked_as_torch_asks_it() -> None:
    mine, ours, theirs, reference = pair()

    def loss_of(chosen: list[nn.Parameter], optimizer: torch.optim.AdamW) -> Callable[[], float]:
        def closure() -> float:
            optimizer.zero_grad()
            loss = torch.stack([parameter.square().sum() for parameter in chosen]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        return closure

    assert ours.step(loss_of(mine, ours)) == reference.step(loss_of(theirs, reference))
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))


def test_a_deep_copy_goes_on() -> None:
    mine, ours, *_ = pair()
    give_gradients(0, mine)
    ours.step()
    again = copy.deepcopy(ours)
    chosen = [parameter for group in again.param_groups for parameter in group["params"]]
    own = [parameter for group in ours.param_groups for parameter in group["params"]]
    give_gradients(1, own, chosen)
    for optimizer, moved in ((ours, own), (again, chosen)):
        optimizer.clip_grad_norm_(moved, 1.0)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(own, chosen, strict=True))


@needs_kernels
def test_it_takes_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    step = adamw_fused.step_

    def noted(weights: Tensor, *rest: Any) -> None:
        seen.append(tuple(weights.shape))
        step(weights, *rest)

    monkeypatch.setattr(adamw_fused, "step_", noted)
    mine, ours, *_ = pair()
    give_gradients(0, mine)
    ours.step()
    assert sorted(seen) == sorted(SHAPES)
