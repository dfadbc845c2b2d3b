"""bf16 working copies change no bit of what autocast computes, and no one outside of an update meets them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import LatentConfig
from model.data.batches.batch import Batch
from model.layers.quantisation import quantise_training
from model.layers.watched import torch_instead
from model.training.config.recipe import Recipe
from model.training.losses.objective import Losses, losses_on
from model.training.optim import adamw_fused
from model.training.optim.adamw import AdamW
from model.training.optim.precision import cast_places
from model.training.optim.working_copies import WorkingCopies
from model.training.run.errors import NotFiniteError
from model.training.run.micro_batches import split
from model.training.run.state import Progress, capture, restore
from model.training.run.trainer import Trainer
from model.transformer import Transformer
from tests.model.training.run.training_runs import DENSE, MOE, model_of, packed_batch, same_state
from tests.needs_torch import needs_kernels

pytestmark = [
    needs_kernels,
    pytest.mark.slow,
]

PLAIN = Recipe(warmup_steps=0, learning_rate=1e-2)
UNTIED = replace(MOE, tie_embeddings=False, n_ahead=1)
LATENT = replace(DENSE, latent=LatentConfig(q_rank=16, kv_rank=16, d_nope=8, d_rope=8, d_value=8))
SHARED = replace(MOE, n_layers=4, attention_owners=(0, 0, 2, 2), ffn_owners=(0, 1, 2, 2))


class WithoutCopies(Trainer):
    """Autocast casts each master in each pass."""

    def _working_copies(self) -> WorkingCopies | None:
        return None


def trainer_of(
    config: Any = MOE, kind: type[Trainer] = Trainer, recipe: Recipe = PLAIN, seed: int = 0
) -> Trainer:
    return kind(model_of(config, seed), recipe, precision="bf16")


def copies_of(trainer: Trainer) -> WorkingCopies:
    assert isinstance(trainer.optimizer, AdamW)
    return trainer.optimizer.copies


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    assert isinstance(trainer.optimizer, AdamW)
    found = {name: trainer.optimizer.gradient(p) for name, p in trainer.model.named_parameters()}
    return {name: gradient.float() for name, gradient in found.items() if gradient is not None}


def everything(trainer: Trainer) -> dict[str, Tensor]:
    state = capture(trainer, Progress(), {}).tensors
    return {f"{part}.{name}": value.clone() for part in state for name, value in state[part].items()}


def names_in(model: Transformer) -> set[str]:
    paths = {id(module): path for path, module in model.named_modules()}
    return {f"{paths[id(module)]}.{name}".lstrip(".") for module, name in cast_places(model)}


@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("config", [DENSE, MOE, LATENT], ids=["dense", "moe", "latent"])
def test_every_bit_is_autocast_s(config: Any, checkpointing: str, n_parts: int) -> None:
    one, other = trainer_of(config), trainer_of(config, WithoutCopies)
    for trainer in (one, other):
        trainer.model.checkpointing = checkpointing  # type: ignore[assignment]
    for seed in range(4):
        parts = split(packed_batch(seed), n_parts)
        assert one.update(parts) == other.update(parts)
    assert len(copies_of(one)) > 10 and not len(copies_of(other))
    assert same_state(everything(one), everything(other))


def test_evaluation_between_updates_sees_the_masters() -> None:
    one, other = trainer_of(), trainer_of(kind=WithoutCopies)
    for seed in range(3):
        batch = packed_batch(seed)
        one.update([batch])
        other.update([batch])
        assert torch.equal(one.logits(batch.tokens_BS), other.logits(batch.tokens_BS))


@pytest.mark.parametrize("config", [SHARED, UNTIED], ids=["shared layers", "a head of its own, used twice"])
def test_uses_of_one_weight_add_up(config: Any) -> None:
    """In bf16, where autocast adds some of them in fp32: equal but for that rounding."""
    huge = replace(PLAIN, clip_norm=1e9)
    for n_parts in (1, 2):
        one, other = trainer_of(config, recipe=huge), trainer_of(config, WithoutCopies, huge)
        parts = split(packed_batch(scored=1.0), n_parts)
        first, second = one.update(parts), other.update(parts)
        assert first.loss == second.loss
        found, expected = gradients(one), gradients(other)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            difference = (found[name] - gradient).abs().max()
            assert difference <= 2.0**-7 * gradient.abs().max(), name


def test_what_has_a_copy() -> None:
    names = {name for name, _ in model_of(UNTIED).named_parameters()}
    trainer = trainer_of(UNTIED)
    expected = {
        name
        for name in names
        if name == "head" or (name.rsplit(".", 1)[-1].startswith("w_") and "router" not in name)
    }
    assert names_in(trainer.model) == expected
    assert {"head", "ahead.0.w_join"} <= expected and not {"embedding", "norm.weight"} & expected
    assert "head" not in names_in(trainer_of(MOE).model)  # tied: the embedding is looked up in fp32


def frozen(model: Transformer) -> None:
    model.layers[0].attention.w_q.requires_grad_(False)  # type: ignore[union-attr]


def hooked(model: Transformer) -> None:
    model.layers[0].attention.w_q.register_hook(lambda gradient: gradient)  # type: ignore[union-attr]


def hooked_behind(model: Transformer) -> None:
    model.layers[0].attention.w_q.register_post_accumulate_grad_hook(lambda _: None)  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [frozen, hooked, hooked_behind])
def test_a_weight_that_somebody_treats_otherwise_has_none(change: Callable[[Transformer], None]) -> None:
    trainer = trainer_of()
    before = names_in(trainer.model)
    trainer.update([packed_batch()])
    n_before = len(copies_of(trainer))
    change(trainer.model)
    assert before - names_in(trainer.model) == {"layers.0.attention.w_q"}
    trainer.update([packed_batch()])
    assert len(copies_of(trainer)) == n_before - 1


def test_layers_in_8_bits_have_none_nor_has_a_compiled_model() -> None:
    model = model_of(UNTIED)
    quantise_training(model, "int8")
    trainer = Trainer(model, PLAIN, precision="bf16")
    assert names_in(trainer.model) == {"head"}
    compiled = trainer_of()
    compiled.model.layers[0].compile()
    assert not names_in(compiled.model)


@pytest.mark.parametrize(
    "trainer",
    [
        lambda: Trainer(model_of(), PLAIN),
        lambda: trainer_of(recipe=replace(PLAIN, optimizer="muon")),
        lambda: trainer_of(recipe=replace(PLAIN, optimizer="adamw_8bit")),
    ],
    ids=["fp32", "muon", "adamw_8bit"],
)
def test_other_formats_and_optimisers_have_none(trainer: Callable[[], Trainer]) -> None:
    chosen = trainer()
    chosen.update([packed_batch()])
    assert chosen._working_copies() is None


@pytest.mark.parametrize("n_parts", [1, 2])
def test_gradients_are_kept_once_and_in_bf16_where_one_pass_gave_them(n_parts: int) -> None:
    trainer = trainer_of()
    trainer.update(split(packed_batch(), n_parts))
    weight = trainer.model.layers[0].attention.w_q
    assert isinstance(trainer.optimizer, AdamW) and isinstance(weight, nn.Parameter)
    gradient = trainer.optimizer.gradient(weight)
    assert gradient is not None
    assert gradient.dtype is (torch.bfloat16 if n_parts == 1 else torch.float32)
    assert (weight.grad is None) is (n_parts == 1)
    trainer.optimizer.zero_grad()
    assert trainer.optimizer.gradient(weight) is None


def test_of_several_passes_a_copy_s_gradient_is_gone_before_the_last_one_comes() -> None:
    trainer = trainer_of()
    masters = list(trainer.model.parameters())
    n_kept: list[int] = []

    def count(_: Tensor) -> None:  # the embedding's gradient is a pass's last
        copies = copies_of(trainer)
        weights = [copies.weights(master) for master in masters]
        n_kept.append(sum(weight is not None and weight.grad is not None for weight in weights))

    trainer.model.embedding.register_hook(count)
    trainer.update(split(packed_batch(), 2))
    assert n_kept == [0, 0]
    trainer.update([packed_batch()])
    assert n_kept[2] == len(copies_of(trainer))


def test_the_model_is_the_same_from_outside() -> None:
    trainer = trainer_of()
    own = dict(trainer.model.named_parameters())
    trainer.update([packed_batch()])
    after = dict(trainer.model.named_parameters())
    assert own.keys() == after.keys() and all(own[name] is after[name] for name in own)
    assert {value.dtype for value in trainer.model.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize("n_parts", [1, 2])
def test_a_master_that_an_objective_uses_beside_its_copy_gets_both_gradients(n_parts: int) -> None:
    one, other = trainer_of(), trainer_of(kind=WithoutCopies)
    for trainer in (one, other):
        weight = trainer.model.layers[0].attention.w_q
        assert isinstance(weight, nn.Parameter)

        def with_penalty(
            model: Transformer, batch: Batch, *, n_targets: int, weight: nn.Parameter = weight
        ) -> Losses:
            losses = losses_on(model, batch, n_targets=n_targets)
            return losses._replace(next_token=losses.next_token + 0.1 * weight.square().sum())

        trainer.objective = with_penalty
    parts = split(packed_batch(), n_parts)
    first, second = one.update(parts), other.update(parts)
    assert first.loss == second.loss
    found, expected = gradients(one), gradients(other)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():  # two parts' four gradients may add up in another order
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def failing(when: str) -> Callable[..., Losses]:
    """An objective that fails in the forward or in the backward pass, once weights have been replaced."""

    def objective(model: Transformer, batch: Batch, *, n_targets: int) -> Losses:
        weight = model.layers[0].attention.w_q
        assert isinstance(weight, nn.Parameter) and weight.dtype is torch.bfloat16
        if when == "forward":
            raise RuntimeError("in the forward pass")
        losses = losses_on(model, batch, n_targets=n_targets)

        def fail(_: Tensor) -> Tensor:
            raise RuntimeError("in the backward pass")

        losses.next_token.register_hook(fail)
        return losses

    return objective


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_masters_come_back_after_an_error(when: str) -> None:
    trainer, reference = trainer_of(), trainer_of()
    own = dict(trainer.model.named_parameters())
    trainer.objective = failing(when)
    with pytest.raises(RuntimeError, match=f"in the {when} pass"):
        trainer.update([packed_batch()])
    after = dict(trainer.model.named_parameters())
    assert all(own[name] is after[name] for name in own)
    trainer.objective = losses_on
    assert trainer.update([packed_batch()]) == reference.update([packed_batch()])


def test_a_copy_s_gradient_that_is_no_number_moves_nothing() -> None:
    trainer = trainer_of()
    trainer.update([packed_batch()])

    def spoilt(model: Transformer, batch: Batch, *, n_targets: int) -> Losses:
        weight = model.layers[0].attention.w_q
        assert isinstance(weight, nn.Parameter)
        weight.register_hook(lambda gradient: gradient * float("inf"))
        return losses_on(model, batch, n_targets=n_targets)

    before = everything(trainer)
    trainer.objective = spoilt
    with pytest.raises(NotFiniteError, match="the gradients of step 2 "):
        trainer.update([packed_batch(1)])
    assert same_state(everything(trainer), before)


def by_load_state_dict(trainer: Trainer) -> None:
    trainer.model.load_state_dict(model_of(seed=5).state_dict())


def in_place(trainer: Trainer) -> None:
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.5)


def by_other_memory(trainer: Trainer) -> None:
    for parameter in trainer.model.parameters():
        parameter.data = parameter.data * 1.5


def by_a_step_without_the_kernel(trainer: Trainer) -> None:
    with torch_instead():
        trainer.update([packed_batch(7)])


def by_the_judged_step(trainer: Trainer) -> None:
    trainer.step(packed_batch(7).tokens_BS)


def by_another_optimiser_state(trainer: Trainer) -> None:
    trainer.optimizer.load_state_dict(copy.deepcopy(trainer.optimizer.state_dict()))
    in_place(trainer)


@pytest.mark.parametrize(
    "change",
    [
        by_load_state_dict,
        in_place,
        by_other_memory,
        by_a_step_without_the_kernel,
        by_the_judged_step,
        by_another_optimiser_state,
    ],
)
def test_masters_that_somebody_else_changed_are_cast_anew(change: Callable[[Trainer], None]) -> None:
    one, other = trainer_of(), trainer_of(kind=WithoutCopies)
    for trainer in (one, other):
        trainer.update([packed_batch()])
        change(trainer)
    for seed in (1, 2):
        assert one.update([packed_batch(seed)]) == other.update([packed_batch(seed)])
    assert same_state(everything(one), everything(other))


def test_a_swapped_in_average_is_computed_with_and_gone_afterwards() -> None:
    recipe = replace(PLAIN, ema_decay=0.5)
    one, other = trainer_of(recipe=recipe), trainer_of(kind=WithoutCopies, recipe=recipe)
    for trainer in (one, other):
        trainer.update([packed_batch()])
        trainer.update([packed_batch(1)])
    losses = []
    for trainer in (one, other):
        assert trainer.average is not None
        probe = copy.deepcopy(trainer)
        assert probe.average is not None
        with probe.average.swapped_in(probe.model):
            losses.append(probe.update([packed_batch(2)]).loss)
        losses.append(trainer.update([packed_batch(2)]).loss)
    assert losses[:2] == losses[2:] and losses[0] != losses[1]


def test_a_run_that_was_stopped_goes_on_with_the_same_bits() -> None:
    straight = trainer_of(UNTIED)
    for seed in range(3):
        straight.update([packed_batch(seed)])
    saved = copy.deepcopy(capture(straight, Progress(3), {}))
    resumed = trainer_of(UNTIED, seed=9)
    resumed.update([packed_batch()])
    restore(resumed, saved)
    for seed in range(3, 6):
        assert resumed.update([packed_batch(seed)]) == straight.update([packed_batch(seed)])
    assert same_state(everything(resumed), everything(straight))


def test_a_watched_update_has_none() -> None:
    trainer = trainer_of()
    with torch_instead():
        assert trainer._working_copies() is None
        trainer.update([packed_batch()])
    assert not len(copies_of(trainer))


def test_gradients_of_copies_reach_torch_s_step_too() -> None:
    """An update that begins unwatched and is watched when it moves."""
    one, other = trainer_of(), trainer_of(kind=WithoutCopies)
    for trainer in (one, other):
        trainer.update([packed_batch()])
        trainer.optimizer.zero_grad()
        trainer._backward_of_all([packed_batch(1)], packed_batch(1).n_targets)
        with torch_instead():
            trainer._clip_grad_norm_()
            trainer.optimizer.step()
    assert same_state(everything(one), everything(other))


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(adamw_fused, "_library", lambda: None)
    yield


@pytest.mark.usefixtures("without_kernel")
def test_without_the_kernel_there_are_none_and_updates_are_torch_s() -> None:
    one, other = trainer_of(), trainer_of()
    other.optimizer = torch.optim.AdamW(
        [
            {key: value for key, value in group.items() if key in ("params", "weight_decay")}
            for group in other.optimizer.param_groups
        ],
        lr=PLAIN.learning_rate,
        betas=(PLAIN.beta1, PLAIN.beta2),
        eps=PLAIN.eps,
        fused=True,
    )
    for seed in range(3):
        assert one.update([packed_batch(seed)]) == other.update([packed_batch(seed)])
    assert not len(copies_of(one))
    assert same_state(everything(one), everything(other))
