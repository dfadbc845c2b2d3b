"""Experts over tensor and expert parallel ranks, which are threads here, against the plain ones of one process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from threading import Lock

import pytest
import torch
from torch import Tensor, nn

from model.config import MoEConfig
from model.layers.moe.capacity import apply_within_capacity, within_capacity
from model.layers.moe.layer import Experts, moe_layers
from model.layers.watched import torch_instead
from model.parallel import collectives, expert
from model.parallel.check_shapes import SHAPES
from model.parallel.collectives import (
    Group,
    even_sizes,
    gather_counts,
    gather_from,
    gather_to,
    reduce_scatter_from,
    split_to,
)
from model.parallel.expert import ParallelExperts
from model.parallel.gradients import Gradients
from model.parallel.mesh.mesh import Coordinates, Mesh
from model.parallel.mesh.processes import alone
from model.parallel.mesh.shards import load
from model.parallel.rows import add_rows, take_rows
from model.parallel.stage import Stage
from model.training.losses.cross_entropy import next_token_loss, next_token_targets
from model.transformer import Transformer
from tests.model.parallel.mesh_threads import on_mesh

pytestmark = pytest.mark.slow

CONFIG = MoEConfig(d_model=16, d_expert=8, n_experts=6, top_k=3)


@dataclass(frozen=True)
class Given:
    """Tokens of one place of ep, where they go, and the gradient that comes back; leaves of its own per user."""

    x_TD: Tensor
    weights_TK: Tensor
    experts_TK: Tensor
    grad_TD: Tensor

    def through(self, experts: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        """Output, and gradients of the tokens and of their weights."""
        x_TD = self.x_TD.clone().requires_grad_()
        weights_TK = self.weights_TK.clone().requires_grad_()
        y_TD = experts(x_TD, weights_TK, self.experts_TK)
        y_TD.backward(self.grad_TD)
        assert x_TD.grad is not None and weights_TK.grad is not None
        return [y_TD.detach(), x_TD.grad, weights_TK.grad]


def given(n_tokens: int, seed: int, dtype: torch.dtype) -> Given:
    rng = torch.Generator().manual_seed(seed)
    x_TD, grad_TD = (torch.randn(n_tokens, CONFIG.d_model, generator=rng).to(dtype) for _ in range(2))
    weights_TK = torch.rand(n_tokens, CONFIG.top_k, generator=rng)
    skewed_TE = torch.rand(n_tokens, CONFIG.n_experts, generator=rng) + torch.linspace(0, 1, CONFIG.n_experts)
    return Given(x_TD, weights_TK, skewed_TE.topk(CONFIG.top_k).indices, grad_TD)


def plain_experts(dtype: torch.dtype) -> Experts:
    torch.manual_seed(3)
    return Experts(CONFIG).to(dtype)


def part_of(stack: Tensor, name: str, mesh: Mesh, at: Coordinates) -> Tensor:
    """A rank's experts and width of a stack, or of its gradient."""
    own = stack.chunk(mesh.ep)[at.ep]
    if mesh.is_folded:
        return own
    return own.chunk(mesh.tp, dim=2 if name == "w_down" else 1)[at.tp]


def spread(
    plain: Experts,
    mesh: Mesh,
    at: Coordinates,
    tp_group: Group,
    ep_group: Group,
    *,
    gives_share: bool = False,
) -> ParallelExperts:
    width = CONFIG.d_expert // (mesh.etp or mesh.tp)
    config = MoEConfig(CONFIG.d_model, width, CONFIG.n_experts, CONFIG.top_k)
    experts = ParallelExperts(
        config, mesh.ep, ep_group, tp_group, is_folded=mesh.is_folded, gives_share=gives_share
    )
    experts.to(plain.w_up.dtype)
    state = {name: part_of(stack, name, mesh, at) for name, stack in plain.state_dict().items()}
    experts.load_state_dict(state)
    return experts


@pytest.mark.parametrize(
    ("mesh", "tokens"),
    [
        (Mesh(tp=2, dp=2, ep=2), (7, 12)),
        (Mesh(tp=2, dp=2, ep=2), (1, 0)),
        (Mesh(tp=2, dp=2, ep=2), (0, 0)),
        (Mesh(tp=4, dp=2, ep=2), (3, 9)),
        (Mesh(tp=4, dp=3, ep=3), (2, 0, 5)),
        (Mesh(dp=3, ep=3), (4, 0, 5)),
        (Mesh(tp=2, ep=2, etp=1), (7,)),
        (Mesh(tp=3, dp=2, ep=6, etp=1), (5, 1)),
        (Mesh(tp=3, dp=2, ep=6, etp=1), (0, 2)),
        (Mesh(tp=2, dp=2, ep=2, etp=1), (3, 8)),
        (Mesh(tp=4, ep=2, etp=1), (9,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_experts_of_all_ranks_are_the_plain_ones_forward_and_backward(
    mesh: Mesh, tokens: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Shares of tokens that are uneven or empty included."""
    batches = [given(n_tokens, seed, dtype) for seed, n_tokens in enumerate(tokens)]
    plain = plain_experts(dtype)
    with torch_instead():  # bf16 rounds elsewhere in the fused kernels
        expected = [batch.through(plain) for batch in batches]

    def trained(at: Coordinates, tp_group: Group, ep_group: Group) -> tuple[list[Tensor], ParallelExperts]:
        experts = spread(plain, mesh, at, tp_group, ep_group)
        with torch_instead():
            return batches[at.dp].through(experts), experts

    close = {"rtol": 2e-2, "atol": 4e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    results = on_mesh(mesh, trained)
    for rank, (found, experts) in enumerate(results):
        at = mesh.coordinates(rank)
        torch.testing.assert_close(found, expected[at.dp], **close)
        copies = [results[copy][1] for copy in mesh.group("edp", rank)]
        for name, _ in experts.named_parameters():
            own = sum(gradient_of(copy, name) for copy in copies)
            torch.testing.assert_close(own, part_of(gradient_of(plain, name), name, mesh, at), **close)


def gradient_of(experts: Experts, name: str) -> Tensor:
    """Zeros where none came."""
    parameter = experts.get_parameter(name)
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.mark.parametrize("mesh", [Mesh(tp=2, dp=2, ep=2), Mesh(tp=3, dp=2, ep=6, etp=1)], ids=str)
def test_what_tensor_parallel_ranks_give_of_their_shares_adds_up_to_the_plain_experts(mesh: Mesh) -> None:
    """Outputs, and gradients of tokens and of their weights: no token is any two ranks'."""
    plain = plain_experts(torch.float32)
    batches = [given(n, n, torch.float32) for n in (7, 1)]
    expected = [batch.through(plain) for batch in batches]
    results = on_mesh(
        mesh, lambda at, *groups: batches[at.dp].through(spread(plain, mesh, at, *groups, gives_share=True))
    )
    for place, tensors in enumerate(expected):
        shares = results[place * mesh.tp : (place + 1) * mesh.tp]
        for one, parts in zip(tensors, zip(*shares, strict=True), strict=True):
            torch.testing.assert_close(sum(parts), one, rtol=1e-5, atol=1e-5)
            assert all(sum(bool(part[row].any()) for part in parts) == 1 for row in range(len(one)))


@pytest.mark.parametrize(
    "mesh", [Mesh(dp=2, ep=2), Mesh(tp=2, dp=2, ep=2), Mesh(tp=3, dp=2, ep=6, etp=1)], ids=str
)
def test_a_rank_whose_capacity_drops_choices_trains_beside_one_that_drops_none(mesh: Mesh) -> None:
    """It gives single choices with weights of one, the other all choices with weights that take gradients."""
    plain, capacity = plain_experts(torch.float32), 4
    batches = [given(n_tokens, 1, torch.float32) for n_tokens in (9, 2)]
    kept = [within_capacity(batch.experts_TK, CONFIG.n_experts, capacity) for batch in batches]
    assert not kept[0].all() and kept[1].all()

    def through(experts: Experts, place: int) -> list[Tensor]:
        def within(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
            return apply_within_capacity(experts, x_TD, weights_TK, experts_TK, kept[place])[0]

        return batches[place].through(within)

    expected = [through(plain, place) for place in range(2)]
    found = on_mesh(mesh, lambda at, *groups: through(spread(plain, mesh, at, *groups), at.dp))
    for rank, tensors in enumerate(found):
        torch.testing.assert_close(tensors, expected[mesh.coordinates(rank).dp], rtol=1e-5, atol=1e-5)


def test_a_token_goes_to_each_rank_of_its_experts_once_whatever_the_tensor_parallel_degree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []

    def counted(x_ND: Tensor, *arguments: object) -> Tensor:
        if x_ND.shape[1] == CONFIG.d_model:
            sent.append(x_ND.shape[0])
        return collectives.exchange_rows(x_ND, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(expert, "exchange_rows", counted)
    plain, batches = plain_experts(torch.float32), [given(n, n, torch.float32) for n in (5, 8)]
    single = given(4, 4, torch.float32)  # of one choice each, as behind a capacity
    batches.append(replace(single, weights_TK=single.weights_TK[:, :1], experts_TK=single.experts_TK[:, :1]))
    pairs = {(n, t, e // 2) for n, batch in enumerate(batches) for t, e in enumerate_experts(batch)}
    assert len(pairs) < (5 + 8) * CONFIG.top_k + 4  # some have two experts on a rank
    for mesh in (Mesh(dp=3, ep=3), Mesh(tp=4, dp=3, ep=3), Mesh(tp=2, dp=3, ep=3, etp=1)):
        sent.clear()
        on_mesh(mesh, lambda at, *groups, mesh=mesh: batches[at.dp].through(spread(plain, mesh, at, *groups)))
        assert sum(sent) == 2 * len(pairs)  # there and back


def enumerate_experts(batch: Given) -> Iterator[tuple[int, int]]:
    """Each token with each of its experts."""
    for token, chosen in enumerate(batch.experts_TK.tolist()):
        for one in chosen:
            yield token, one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_rows_are_taken_and_added_up_as_torch_does(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    parts = [torch.tensor([4, 0, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([2, 4])]
    index_N = torch.cat(parts)
    x_RD = torch.randn(6, 3, dtype=dtype, requires_grad=True)
    y_ND, grad_RD = torch.randn(5, 3, dtype=dtype, requires_grad=True), torch.randn(6, 3, dtype=dtype)
    assert torch.equal(take_rows(x_RD, parts), x_RD[index_N])
    (grad,) = torch.autograd.grad(take_rows(x_RD, parts), x_RD, y_ND.detach())
    assert grad.dtype is dtype
    torch.testing.assert_close(grad, torch.zeros_like(x_RD).index_add(0, index_N, y_ND.detach()))
    total_RD = add_rows(y_ND, parts, 6, torch.float32)
    torch.testing.assert_close(total_RD, torch.zeros(6, 3).index_add(0, index_N, y_ND.detach().float()))
    (grad,) = torch.autograd.grad(total_RD, y_ND, grad_RD.float())
    assert torch.equal(grad, grad_RD[index_N])


def test_many_rows_are_added_up_to_the_same_bits_by_several_threads() -> None:
    """torch's own backward of `x[rows]` is not."""
    torch.manual_seed(0)
    parts = [torch.randperm(50) for _ in range(160)]
    x_RD, grad_ND = torch.randn(50, 512, requires_grad=True), torch.randn(8000, 512)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        grads = [torch.autograd.grad(take_rows(x_RD, parts), x_RD, grad_ND)[0] for _ in range(10)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(grad, grads[0]) for grad in grads)


@pytest.mark.parametrize("mesh", [Mesh(tp=4, dp=2, ep=2), Mesh(tp=3, dp=2, ep=6, etp=1)], ids=str)
def test_tensor_parallel_ranks_get_the_same_output_and_gradients_to_the_bit(mesh: Mesh) -> None:
    """Else what they hold alike, norms and routers, would drift apart."""
    plain = plain_experts(torch.float32)
    batches = [given(n, n, torch.float32) for n in (6, 9)]
    results = on_mesh(mesh, lambda at, *groups: batches[at.dp].through(spread(plain, mesh, at, *groups)))
    for rank, found in enumerate(results):
        first = results[mesh.group("tp", rank)[0]]
        assert all(torch.equal(one, other) for one, other in zip(found, first, strict=True))


@pytest.mark.parametrize("mesh", [Mesh(tp=2, dp=2, ep=2), Mesh(tp=2, dp=2, ep=4, etp=1)], ids=str)
def test_stages_of_tensor_and_expert_parallel_ranks_have_the_whole_models_loss_and_router_gradients(
    mesh: Mesh,
) -> None:
    config, making = SHAPES["small-moe"], Lock()
    torch.manual_seed(0)
    whole = Transformer(config)
    batches = torch.randint(config.vocab_size, (2, 3, 15))

    def found(at: Coordinates, tp_group: Group, ep_group: Group) -> list[Tensor]:
        with making:  # modules without weights are made under a mode of the whole process
            stage = Stage(config, mesh, at, tp_group=tp_group, ep_group=ep_group)
            load(stage, whole.state_dict(), mesh, at, torch.device("cpu"))
        loss = stage(batches[at.dp], targets_BS=next_token_targets(batches[at.dp]))
        return [loss.detach(), *torch.autograd.grad(loss, routers(stage))]

    for rank, tensors in enumerate(on_mesh(mesh, found)):
        tokens = batches[mesh.coordinates(rank).dp]
        loss = next_token_loss(whole(tokens), tokens) * tokens[:, 1:].numel()
        expected = [loss.detach(), *torch.autograd.grad(loss, routers(whole))]
        torch.testing.assert_close(tensors, expected, rtol=1e-4, atol=1e-5)


def routers(model: nn.Module) -> list[nn.Parameter]:
    found = [layer.router.weight for layer in moe_layers(model).values()]
    assert found
    return found


@pytest.mark.parametrize(
    "mesh", [Mesh(dp=2, tp=2, ep=2), Mesh(dp=2, tp=2, ep=2, etp=1), Mesh(tp=4, ep=2, etp=1)], ids=str
)
def test_each_parameter_is_held_by_as_many_ranks_as_its_gradients_count(mesh: Mesh) -> None:
    """Else the norm over all ranks, by which they clip, would be another one."""
    config, held = SHAPES["small-latent"], defaultdict[str, Fraction](Fraction)
    for rank in range(mesh.world_size):
        at = mesh.coordinates(rank)
        fake = replace(alone(), mesh=mesh, rank=rank, at=at)
        for item in Gradients([Stage(config, mesh, at)], fake).trained:
            held[item.name] += Fraction(item.parameter.numel(), item.replicas)
    assert held == {name: p.numel() for name, p in Transformer(config).named_parameters()}


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 7])
def test_rows_are_split_and_gathered_and_gradients_take_the_conjugate_way(n_rows: int) -> None:
    x_ND = torch.arange(2.0 * n_rows).view(n_rows, 2)
    mesh = Mesh(tp=3)

    def moved(at: Coordinates, group: Group, _: Group) -> list[Tensor]:
        sizes = even_sizes(n_rows, group)
        alike = x_ND.clone().requires_grad_()
        part = split_to(alike, sizes, group)
        again = gather_from(part, sizes, group)
        (back,) = torch.autograd.grad((again * x_ND).sum(), alike)
        own = part.detach().requires_grad_()
        summed = reduce_scatter_from(gather_to(own, sizes, group) * (at.tp + 1), sizes, group)
        (summed_back,) = torch.autograd.grad(summed, own, own.detach())
        return [again.detach(), back, part.detach(), summed.detach(), summed_back]

    results = on_mesh(mesh, moved)
    for again, back, part, summed, summed_back in results:
        assert torch.equal(again, x_ND) and torch.equal(back, x_ND)
        assert torch.equal(summed, 6 * part) and torch.equal(summed_back, 6 * part)
    parts = [part for _, _, part, _, _ in results]
    assert torch.equal(torch.cat(parts), x_ND)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_counts_of_all_ranks_are_gathered_in_their_order() -> None:
    results = on_mesh(Mesh(tp=3), lambda at, group, _: gather_counts(torch.tensor([[at.tp], [9]]), group))
    assert all(counts.tolist() == [[[0], [9]], [[1], [9]], [[2], [9]]] for counts in results)
    assert gather_counts(torch.tensor([4]), None).tolist() == [[4]]


def test_an_axis_of_one_rank_moves_nothing() -> None:
    x_ND = torch.ones(3, 2)
    assert even_sizes(3, None) == [3]
    for move in (split_to, gather_from, gather_to, reduce_scatter_from):
        assert move(x_ND, [3], None) is x_ND
