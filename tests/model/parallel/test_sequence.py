"""A stream whose positions are split over tensor parallel ranks, which are threads here, against whole rows in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.moe.layer import moe_layers, set_loss_scale
from model.layers.recompute import Checkpointing
from model.layers.watched import torch_instead
from model.parallel.check_shapes import SHAPES
from model.parallel.gradients import Trained
from model.parallel.mesh.mesh import Mesh
from model.parallel.mesh.processes import Processes
from model.parallel.residual import SplitResidual
from model.parallel.tensor import cross_entropy_sum
from model.parallel.trainer import ParallelTrainer
from model.parallel.training_state import merge_training
from model.plan.measure import counted_messages, kept_by
from model.training.losses.cross_entropy import next_token_targets
from model.transformer import Transformer
from tests.model.parallel.mesh_threads import on_mesh, on_processes
from tests.model.parallel.zero_ranks import unlike

pytestmark = pytest.mark.slow

SMALL = SHAPES["small-moe"]
assert SMALL.moe is not None
TIGHT = replace(SMALL, moe=replace(SMALL.moe, capacity_factor=1.0, switch_loss=0.1, z_loss=0.01))
MODELS: dict[str, ModelConfig] = {**SHAPES, "tight": TIGHT}
_making = Lock()  # modules without weights are made under a mode of the whole process


@dataclass(frozen=True)
class Found:
    """What one rank has behind the backward pass of a step."""

    loss: Tensor
    gradients: dict[str, Tensor]
    loads: list[Tensor]  # tokens per expert of the layers that balance by bias


def weights(config: ModelConfig) -> dict[str, Tensor]:
    """Random ones, norms and biases too."""
    torch.manual_seed(0)
    state = Transformer(config).state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            state[name] = tensor + 0.1 * torch.randn_like(tensor)
    return state


def tokens_of(config: ModelConfig, place: int, n_tokens: int) -> Tensor:
    return torch.randint(config.vocab_size, (2, n_tokens), generator=torch.Generator().manual_seed(place))


def packing_of(n_tokens: int) -> dict[str, Tensor]:
    """Two documents in each of two rows."""
    first = n_tokens // 3
    documents_S = (torch.arange(n_tokens) >= first).long()
    positions_S = torch.arange(n_tokens) - first * documents_S
    return {
        "documents_BS": documents_S.expand(2, -1).contiguous(),
        "positions_BS": positions_S.expand(2, -1).contiguous(),
    }


def made(
    config: ModelConfig, own: Processes, *, splits_sequence: bool = True, **options: Any
) -> ParallelTrainer:
    with _making:
        return ParallelTrainer(config, weights(config), own, splits_sequence=splits_sequence, **options)


def stepped(trainer: ParallelTrainer, n_tokens: int) -> dict[str, Any]:
    """Its state behind an update, without clipping, which asks all ranks of a world."""
    tokens_BS = tokens_of(trainer.config, trainer.processes.at.dp, n_tokens)
    trainer.optimizer.zero_grad()
    trainer.runner.run(tokens_BS, next_token_targets(tokens_BS), torch.tensor(0.1), {})
    trainer.gradients.add_up()
    trainer.optimizer.step()
    trainer.steps += 1
    return copy.deepcopy(trainer.training_state())


def on_split_ranks(
    config: ModelConfig, mesh: Mesh, n_tokens: int, packing: dict[str, Tensor], checkpointing: Checkpointing
) -> list[tuple[Found, dict[str, Trained]]]:
    def found(own: Processes) -> tuple[Found, dict[str, Trained]]:
        trainer = made(config, own, checkpointing=checkpointing)
        tokens_BS = tokens_of(config, own.at.dp, n_tokens)
        scale = torch.tensor(share_of_loss(mesh, n_tokens))
        loss = trainer.runner.run(tokens_BS, next_token_targets(tokens_BS), scale, packing)
        trainer.gradients.add_up()
        of = {item.name: item for item in trainer.gradients.trained}
        gradients = {name: gradient_of(item.parameter) for name, item in of.items()}
        return Found(loss, gradients, loads_of(trainer.stages[0])), of

    return on_processes(mesh, found)


def in_one_process(config: ModelConfig, mesh: Mesh, n_tokens: int, packing: dict[str, Tensor]) -> list[Found]:
    """For each place of dp its loss and loads; gradients are those of all places' rows."""
    whole = Transformer(config)
    whole.load_state_dict(weights(config))
    set_loss_scale(whole, 1.0 / mesh.dp)
    losses, loads = [], []
    for place in range(mesh.dp):
        tokens_BS = tokens_of(config, place, n_tokens)
        logits_TV = whole(tokens_BS, **packing).flatten(0, 1)
        loss = cross_entropy_sum(logits_TV, next_token_targets(tokens_BS).flatten(), 0, None)
        loss = loss * share_of_loss(mesh, n_tokens)
        loss.backward()
        losses.append(loss.detach())
        loads.append([load.clone() for load in loads_of(whole)])
        for layer in moe_layers(whole).values():
            if layer.load_E is not None:
                layer.load_E.zero_()
    gradients = {name: gradient_of(parameter) for name, parameter in whole.named_parameters()}
    return [Found(loss, gradients, load) for loss, load in zip(losses, loads, strict=True)]


def share_of_loss(mesh: Mesh, n_tokens: int) -> float:
    """One target's in the mean over all places' rows."""
    return 1.0 / (mesh.dp * 2 * max(n_tokens - 1, 1))


def assert_close_to_its_largest(gradient: Tensor, expected: Tensor, name: str) -> None:
    """Up to rounding, which is of the largest terms that were added up."""
    off, largest = float((gradient - expected).abs().max()), float(expected.abs().max())
    assert off <= 1e-4 * largest + 1e-8, f"{name} is off by {off:.2e} of {largest:.2e}"


def gradient_of(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def loads_of(model: nn.Module) -> list[Tensor]:
    return [layer.load_E for layer in moe_layers(model).values() if layer.load_E is not None]


@pytest.mark.parametrize(
    ("name", "mesh", "n_tokens", "checkpointing"),
    [
        ("small-moe", Mesh(tp=2), 15, "none"),
        ("small-moe", Mesh(tp=2), 1, "none"),  # one rank has no position at all
        ("small-moe", Mesh(tp=2, dp=2, ep=2), 15, "full"),
        ("small-moe", Mesh(tp=2, ep=2, etp=1), 16, "none"),
        ("small-latent", Mesh(tp=2), 16, "selective"),
        ("small-latent", Mesh(tp=4, ep=2, etp=1), 15, "full"),
        ("small-latent", Mesh(tp=2, dp=2, ep=2), 15, "none"),
        ("small-dense", Mesh(tp=4), 18, "selective"),
        ("tight", Mesh(tp=2), 15, "none"),
        ("tight", Mesh(tp=2, dp=2, ep=2), 15, "none"),
        ("tight", Mesh(tp=2, dp=2, ep=4, etp=1), 15, "full"),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
def test_loss_gradients_and_load_are_those_of_one_process(
    name: str, mesh: Mesh, n_tokens: int, checkpointing: Checkpointing, is_packed: bool
) -> None:
    """Norms, routers and their auxiliary losses, gates and latents included: what each rank has of them is a part."""
    config, packing = MODELS[name], packing_of(n_tokens) if is_packed else {}
    expected = in_one_process(config, mesh, n_tokens, packing)
    results = on_split_ranks(config, mesh, n_tokens, packing, checkpointing)
    for rank, (found, trained) in enumerate(results):
        at = mesh.coordinates(rank)
        torch.testing.assert_close(found.loss, expected[at.dp].loss, rtol=1e-5, atol=1e-6)
        for of, gradient in found.gradients.items():
            whole = trained[of].layout.cut(expected[at.dp].gradients[of], mesh, at)
            assert_close_to_its_largest(gradient, whole, of)
        for load, own in zip(found.loads, expected[at.dp].loads, strict=True):
            assert torch.equal(load, own)


def test_what_tensor_parallel_ranks_have_whole_gets_the_same_gradient_on_each_to_the_bit() -> None:
    """Else norms and routers would drift apart."""
    results = on_split_ranks(SHAPES["small-latent"], Mesh(tp=4), 15, {}, "none")
    (first, trained), *others = results
    whole = [name for name, item in trained.items() if item.layout.tp_dim is None]
    assert {"norm.weight", "layers.1.ffn_norm.weight", "layers.1.ffn.router.weight"} < set(whole)
    for found, _ in others:
        assert all(torch.equal(found.gradients[name], first.gradients[name]) for name in whole)


def test_a_state_is_the_same_to_the_bit_with_a_split_sequence_and_with_a_whole_one() -> None:
    """And so is what a run comes to that trained on whole rows in between, but for rounding."""
    config, mesh = SHAPES["small-latent"], Mesh(tp=2)

    def states(own: Processes) -> tuple[dict[str, Any], ...]:
        split, whole = (made(config, own, splits_sequence=is_split) for is_split in (True, False))
        saved = stepped(split, 15)
        whole.load_training_state(saved)
        loaded = copy.deepcopy(whole.training_state())
        return saved, loaded, stepped(split, 15), stepped(whole, 15)

    saved, loaded, *gone_on = ([by_rank[n] for by_rank in on_processes(mesh, states)] for n in range(4))
    whole_before, whole_after = (merge_training(config, mesh, dict(enumerate(of))) for of in (saved, loaded))
    assert unlike(whole_before, whole_after) == []
    split, whole = (merge_training(config, mesh, dict(enumerate(of))) for of in gone_on)
    assert len(unlike(split, whole_before)) > 100
    torch.testing.assert_close(split["optimiser"]["exp_avg"], whole["optimiser"]["exp_avg"])


def moved(n_tokens: int, compute: Callable[[SplitResidual, Tensor], list[Tensor]]) -> list[list[Tensor]]:
    """`compute` of each of three ranks with all of a stream [2, n_tokens, 4]."""
    x_BSD = torch.arange(8.0 * n_tokens).view(2, n_tokens, 4)

    def on_rank(_: object, group: Any, __: object) -> list[Tensor]:
        residual = SplitResidual(group)
        residual.begin(n_tokens)
        return compute(residual, x_BSD)

    return on_mesh(Mesh(tp=3), on_rank)


@pytest.mark.parametrize("n_tokens", [1, 3, 7])
def test_positions_leave_as_parts_in_their_order_and_enter_as_whole_rows(n_tokens: int) -> None:
    def compute(residual: SplitResidual, x_BSD: Tensor) -> list[Tensor]:
        own_BPD = residual.leave(x_BSD).requires_grad_()
        whole_BSD = residual.enter(own_BPD)
        (grad_BPD,) = torch.autograd.grad(whole_BSD, own_BPD, x_BSD)
        assert own_BPD.shape == (2, residual.n_own(n_tokens), 4)
        assert all(tensor.is_contiguous() for tensor in (own_BPD, whole_BSD))
        return [own_BPD.detach(), whole_BSD.detach(), grad_BPD]

    results = moved(n_tokens, compute)
    x_BSD = torch.arange(8.0 * n_tokens).view(2, n_tokens, 4)
    assert torch.equal(torch.cat([own for own, _, _ in results], 1), 3 * x_BSD)
    assert all(torch.equal(whole, 3 * x_BSD) for _, whole, _ in results)
    assert torch.equal(torch.cat([grad for _, _, grad in results], 1), 3 * x_BSD)
    sizes = [own.shape[1] for own, _, _ in results]
    assert max(sizes) - min(sizes) <= 1


def test_an_axis_of_one_rank_has_whole_rows() -> None:
    residual, x_BSD = SplitResidual(None), torch.ones(2, 3, 4)
    residual.begin(3)
    assert residual.n_own(3) == 3
    assert torch.equal(residual.enter(x_BSD), x_BSD) and torch.equal(residual.leave(x_BSD), x_BSD)


def test_under_full_checkpointing_a_layer_keeps_its_rank_s_positions_alone() -> None:
    n_tokens, stream = 16, 2 * 16 * SMALL.d_model * 4  # bytes of whole rows

    def kept(own: Processes) -> int:
        stages = [
            made(config, own, checkpointing="full").stages[0]
            for config in (SMALL, replace(SMALL, n_layers=SMALL.n_layers - 1))
        ]
        tokens_BS = tokens_of(SMALL, 0, n_tokens)
        targets_BS = next_token_targets(tokens_BS)
        counts = []
        for stage in stages:
            stage(tokens_BS, targets_BS=targets_BS)  # tables of rotations are made once
            loss, n_bytes = kept_by(lambda stage=stage: stage(tokens_BS, targets_BS=targets_BS))  # type: ignore[misc]
            loss.backward()
            counts.append(n_bytes)
        return counts[0] - counts[1]

    # the same kernels in the forward pass, which is watched, and when it is computed again
    with torch_instead():
        assert on_processes(Mesh(tp=2), kept) == [stream // 2] * 2


def test_one_rank_is_sent_as_many_bytes_as_the_sums_of_whole_rows_took() -> None:
    """A gather and a scatter are the halves of an all-reduce; an MoE layer's tokens are gathered once for all its parts."""
    config, n_tokens = replace(SMALL, n_layers=2), 16
    stream = 2 * n_tokens * config.d_model * 4

    def sent(own: Processes) -> int:
        stage = made(config, own).stages[0]
        tokens_BS = tokens_of(config, 0, n_tokens)
        stage(tokens_BS, targets_BS=next_token_targets(tokens_BS)).backward()
        with counted_messages(own) as messages:
            stage(tokens_BS, targets_BS=next_token_targets(tokens_BS)).backward()
        return sum(messages.bytes.values())

    layers, ends, loss = 2 * 8 * stream, 4 * stream, 3 * 2 * n_tokens * 4
    assert on_processes(Mesh(tp=2), sent) == [layers + ends + loss] * 2
