"""AdamW's moments follow their parameters into a grown model, in fp32 and in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.growth import (
    Growth,
    duplicate_experts,
    insert_identity_blocks,
    named_moments,
    set_named_moments,
    split_experts,
    stack_layers,
    upcycle_halves,
    upcycle_slices,
)
from model.presets import PRESETS
from model.training.config.recipe import Recipe
from model.training.optim.adamw_8bit import adamw_8bit
from model.training.optim.choice import adamw
from model.training.run.trainer import Trainer
from model.transformer import Transformer

MOE = replace(PRESETS["tiny"], vocab_size=32, n_layers=2)
DENSE = replace(MOE, moe=None)
RECIPE = Recipe(warmup_steps=0, learning_rate=1e-3)


def tokens(seed: int) -> Tensor:
    return torch.randint(0, 32, (4, 12), generator=torch.Generator().manual_seed(seed))


def trained(config: ModelConfig) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(Transformer(config), RECIPE)
    for seed in range(4):
        trainer.step(tokens(seed))
    return trainer


def grown(parent: Trainer, growth: Growth) -> Trainer:
    child = Transformer(growth.config)
    child.load_state_dict(growth.state(parent.model.state_dict()))
    trainer = Trainer(child, RECIPE)
    set_named_moments(child, trainer.optimizer, growth.moments(named_moments(parent.model, parent.optimizer)))
    return trainer


@pytest.mark.parametrize(
    ("config", "grow"),
    [
        (DENSE, upcycle_halves),
        (DENSE, upcycle_slices),
        (MOE, lambda config: duplicate_experts(config, 2)),
        (MOE, lambda config: split_experts(config, 2)),
        (MOE, lambda config: insert_identity_blocks(config, [0])),
        (MOE, lambda config: stack_layers(config, [0, 1, 1])),
    ],
)
def test_every_moment_is_picked_as_its_weight_is(
    config: ModelConfig, grow: Callable[[ModelConfig], Growth]
) -> None:
    """Put in the place of weights, a parent's moments must come out as its growth's moments say."""
    parent = trained(config)
    growth = grow(config)
    moments = growth.moments(named_moments(parent.model, parent.optimizer))
    as_weights = {
        name: parent.optimizer.state[parameter]["exp_avg"]
        for name, parameter in parent.model.named_parameters()
    }
    buffers = dict(parent.model.named_buffers())
    state = growth.state(
        {name: as_weights.get(name, buffers.get(name)) for name in parent.model.state_dict()}
    )
    child = grown(parent, growth)
    for name, parameter in child.model.named_parameters():
        if name in moments:
            assert torch.equal(moments[name]["exp_avg"], state[name])
            assert torch.equal(child.optimizer.state[parameter]["exp_avg"], state[name])
            assert child.optimizer.state[parameter]["step"] == 4
        else:
            assert parameter not in child.optimizer.state
    assert set(state) - set(moments) == new_names(growth)


def new_names(growth: Growth) -> set[str]:
    """What a parent has no moments for: drawn routers and new layers."""
    return {
        name
        for name, source in growth.sources.items()
        if not hasattr(source, "name") or getattr(source, "is_new", False)
    }


def test_a_child_without_new_parts_goes_on_as_its_parent_would() -> None:
    """Split experts are the parent's: one more step of both leads to equal logits."""
    parent = trained(MOE)
    child = grown(parent, split_experts(MOE, 2))
    with torch.no_grad():
        before = parent.logits(tokens(9))
        torch.testing.assert_close(
            child.logits(tokens(9)), before, rtol=0, atol=2e-5 * float(before.abs().max())
        )
    # all but the router, whose rows share what was one row's gradient
    for trainer in (parent, child):
        for layer in trainer.model.layers:
            layer.ffn.router.weight.requires_grad_(False)
    with_moments = parent.step(tokens(10)), child.step(tokens(10))
    torch.testing.assert_close(*with_moments, rtol=1e-4, atol=1e-4)
    after = parent.logits(tokens(9))
    scale = float((after - before).abs().max())
    gap = float((child.logits(tokens(9)) - after).abs().max())
    fresh = Trainer(Transformer(child.model.config), RECIPE)
    fresh.model.load_state_dict(split_experts(MOE, 2).state(trained(MOE).model.state_dict()))
    fresh.step(tokens(10))
    fresh_gap = float((fresh.logits(tokens(9)) - after).abs().max())
    assert gap < 0.25 * scale and gap < 0.5 * fresh_gap


@pytest.mark.parametrize("to_8bit", [True, False])
@pytest.mark.parametrize("from_8bit", [True, False])
def test_moments_move_between_fp32_and_8_bits(from_8bit: bool, to_8bit: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(MOE)
    source = (adamw_8bit if from_8bit else adamw)(model.parameters(), RECIPE)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    source.step()
    moments = named_moments(model, source)
    growth = duplicate_experts(MOE, 2)
    child = Transformer(growth.config)
    target = (adamw_8bit if to_8bit else adamw)(child.parameters(), RECIPE)
    set_named_moments(child, target, growth.moments(moments))
    found = named_moments(child, target)
    assert set(found) == set(dict(child.named_parameters()))
    for name, expected in growth.moments(moments).items():
        for key in ("exp_avg", "exp_avg_sq"):
            error = (found[name][key] - expected[key]).abs().max()
            assert error <= (0.0075 if to_8bit else 0) * expected[key].abs().max()
    for parameter in child.parameters():
        parameter.grad = torch.zeros_like(parameter)
    target.step()  # the state is usable


def test_moments_of_others_are_refused() -> None:
    parent = trained(MOE)
    moments = named_moments(parent.model, parent.optimizer)
    with pytest.raises(KeyError, match="no parameter"):
        set_named_moments(Transformer(DENSE), adamw(Transformer(DENSE).parameters(), RECIPE), moments)
    other = Transformer(duplicate_experts(MOE, 2).config)
    with pytest.raises(ValueError, match="have shape"):
        set_named_moments(other, adamw(other.parameters(), RECIPE), moments)
    sgd = torch.optim.SGD(parent.model.parameters())
    with pytest.raises(TypeError, match="fresh optimiser"):
        named_moments(parent.model, sgd)
