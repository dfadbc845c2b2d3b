"""What one rank computes, without processes: its loss, its experts, its stage, and how shards are cut and merged."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ModelConfig, MoEConfig
from model.data.batches.batch import IGNORED
from model.layers.moe.layer import Experts, MoELayer
from model.layers.watched import torch_instead
from model.parallel import buckets as parallel_buckets
from model.parallel import sharded_adamw
from model.parallel.buckets import BUCKET_ELEMENTS, buckets
from model.parallel.check_shapes import SHAPES
from model.parallel.expert import ParallelExperts
from model.parallel.gradients import Gradients
from model.parallel.mesh.mesh import Mesh, MeshError, check
from model.parallel.mesh.processes import alone
from model.parallel.mesh.shards import layouts, load, merge
from model.parallel.pipeline import Pipeline, require_even, runner
from model.parallel.residual import WholeResidual
from model.parallel.stage import Stage
from model.parallel.tensor import cross_entropy_sum, embed
from model.parallel.trainer import ParallelTrainer
from model.plan.measure import LiveBytes
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_loss, next_token_targets
from model.training.run.errors import NotFiniteError
from model.training.run.trainer import Trainer
from model.transformer import Transformer
from tests.model.training.run.training_runs import packed_batch

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SMALL = SHAPES["small-moe"]


def random_state(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = Transformer(config).state_dict()
    for name, tensor in state.items():  # norms and biases start alike: errors would not show
        if tensor.is_floating_point() and tensor.ndim == 1:
            state[name] = tensor + 0.1 * torch.randn_like(tensor)
    return state


def test_summed_loss_and_its_gradient_are_torchs() -> None:
    torch.manual_seed(0)
    logits = torch.randn(12, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(9, (12,))
    targets[[2, 7]] = IGNORED
    expected = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    (expected_grad,) = torch.autograd.grad(3 * expected, logits)
    loss = cross_entropy_sum(logits, targets, 0, None)
    (grad,) = torch.autograd.grad(3 * loss, logits)
    assert torch.allclose(loss, expected)
    assert torch.allclose(grad, expected_grad)
    assert (grad[[2, 7]] == 0).all()


def test_loss_does_not_overflow_and_leaves_the_logits_alone() -> None:
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    before = logits.clone()
    loss = cross_entropy_sum(logits, torch.tensor([1, 1]), 0, None)
    assert torch.isfinite(loss) and loss > 9e3
    assert torch.equal(logits, before)


class UnaddedResidual(WholeResidual):
    """What would be added up over the ranks is added by hand."""

    def __init__(self) -> None:
        super().__init__(object())  # type: ignore[arg-type]

    def leave(self, y_BSD: torch.Tensor) -> torch.Tensor:
        return y_BSD


def test_parts_of_a_vocabulary_add_up_to_all_embeddings() -> None:
    torch.manual_seed(1)
    table, ids = torch.randn(10, 4), torch.randint(10, (2, 5))
    parts = [embed(ids, table[start : start + 5], start, UnaddedResidual()) for start in (0, 5)]
    assert torch.equal(parts[0] + parts[1], F.embedding(ids, table))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_of_one_rank_equal_the_plain_ones_forward_and_backward(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    config = MoEConfig(d_model=16, d_expert=8, n_experts=6, top_k=3)
    plain = Experts(config).to(dtype)
    parallel = ParallelExperts(config, 1, None).to(dtype)
    parallel.load_state_dict(plain.state_dict())
    chosen = torch.rand(20, 6).topk(3).indices
    results = []
    for experts in (plain, parallel):
        x = torch.linspace(-1, 1, 20 * 16).view(20, 16).to(dtype).requires_grad_()
        weights = torch.linspace(0, 1, 60).view(20, 3).requires_grad_()
        with torch_instead():  # bf16 rounds elsewhere in the fused kernels
            y = experts(x, weights, chosen)
        y.float().square().sum().backward()
        results.append((y, x.grad, weights.grad, experts.w_down.grad, experts.w_gate.grad))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a.float(), b.float(), rtol=2e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-5)


def test_experts_compute_no_tokens_without_failing() -> None:
    config = MoEConfig(d_model=16, d_expert=8, n_experts=6, top_k=2)
    experts = ParallelExperts(config, 1, None)
    x = torch.zeros(0, 16, requires_grad=True)
    y = experts(x, torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.int64))
    assert y.shape == (0, 16)
    y.sum().backward()
    assert x.grad is not None


MESHES = [
    Mesh(),
    Mesh(tp=2),
    Mesh(dp=2, ep=2),
    Mesh(pp=2),
    Mesh(dp=4, tp=2, pp=2, ep=4),
    Mesh(dp=4, tp=4, ep=2),
    Mesh(dp=2, tp=2, pp=2, ep=4, etp=1),
    Mesh(dp=2, tp=2, ep=2, etp=1),
    Mesh(tp=4, ep=2, etp=1),
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_shards_hold_the_whole_model_once_and_merge_to_it(name: str, mesh: Mesh) -> None:
    config = SHAPES[name]
    if config.moe is None and mesh.ep > 1:
        mesh = dataclasses.replace(mesh, ep=1, etp=None)
    if config.n_kv_heads % mesh.tp and config.latent is None:
        mesh = dataclasses.replace(mesh, tp=2)
    check(config, mesh)
    state = random_state(config)
    shards = {}
    for rank in range(mesh.world_size):
        stage = Stage(config, mesh, mesh.coordinates(rank))
        assert all(tensor.is_meta for tensor in stage.parameters())
        load(stage, state, mesh, mesh.coordinates(rank), CPU)
        shards[rank] = stage.state_dict()
    merged = merge(config, mesh, shards)
    assert set(merged) == set(state)
    assert all(torch.equal(merged[name], state[name]) for name in state)
    distinct = [rank for rank in range(mesh.world_size) if mesh.coordinates(rank).edp == 0]
    held = sum(
        tensor.numel() for rank in distinct for name, tensor in shards[rank].items() if ".experts." in name
    )
    assert held == sum(tensor.numel() for name, tensor in state.items() if ".experts." in name)


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([1, 2]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_a_shard_of_any_mesh_continues_on_any_other(tp: int, pp: int, ep: int, seed: int) -> None:
    mesh, other = Mesh(dp=ep, tp=tp, pp=pp, ep=ep), Mesh(dp=2, tp=3 - tp, pp=4 // pp, ep=2)
    state = random_state(SMALL, seed)
    for spread in (mesh, other):
        shards = {}
        for rank in range(spread.world_size):
            stage = Stage(SMALL, spread, spread.coordinates(rank))
            load(stage, state, spread, spread.coordinates(rank), CPU)
            shards[rank] = stage.state_dict()
        state = merge(SMALL, spread, shards)
    assert all(torch.equal(tensor, state[name]) for name, tensor in random_state(SMALL, seed).items())


def test_latent_heads_are_split_and_their_latents_are_not() -> None:
    spread = layouts(SHAPES["small-latent"], Mesh(dp=2, tp=2, ep=2))
    assert spread["layers.0.attention.w_kv_up"].tp_dim == 0
    assert spread["layers.0.attention.w_o"].tp_dim == 1
    assert spread["layers.0.attention.w_kv_down"].tp_dim is None
    experts = spread["layers.1.ffn.experts.w_down"]
    assert experts.is_expert and experts.tp_dim == 2
    assert experts.local_shape(Mesh(dp=2, tp=2, ep=2)) == (4, 32, 8)
    assert not spread["layers.1.ffn.router.weight"].is_expert


def test_experts_of_a_folded_mesh_are_whole_and_the_shared_ones_are_not() -> None:
    mesh = Mesh(dp=2, tp=2, ep=4, etp=1)
    spread = layouts(SHAPES["small-latent"], mesh)
    experts, shared = (spread[f"layers.1.ffn.{kind}.w_down"] for kind in ("experts", "shared"))
    assert experts.is_expert and experts.tp_dim is None
    assert experts.local_shape(mesh) == (2, 32, 16)
    assert not shared.is_expert and shared.tp_dim == 1


def test_missing_or_wrong_weights_are_refused() -> None:
    mesh = Mesh()
    state = random_state(SMALL)
    stage = Stage(SMALL, mesh, mesh.coordinates(0))
    with pytest.raises(MeshError, match=r"has no layers.2.attention.w_q"):
        load(
            stage,
            {name: t for name, t in state.items() if name != "layers.2.attention.w_q"},
            mesh,
            mesh.coordinates(0),
            CPU,
        )
    with pytest.raises(MeshError, match="has shape"):
        load(stage, {**state, "embedding": torch.zeros(3, 32)}, mesh, mesh.coordinates(0), CPU)
    with pytest.raises(MeshError, match="no shard has"):
        merge(SMALL, Mesh(pp=2), {0: state_of_stage(SMALL, Mesh(pp=2), 0)})


def state_of_stage(config: ModelConfig, mesh: Mesh, rank: int) -> dict[str, torch.Tensor]:
    stage = Stage(config, mesh, mesh.coordinates(rank))
    load(stage, random_state(config), mesh, mesh.coordinates(rank), CPU)
    return dict(stage.state_dict())


@pytest.mark.parametrize("name", SHAPES)
def test_stages_one_after_the_other_are_the_whole_model(name: str) -> None:
    config = SHAPES[name]
    state = random_state(config)
    whole = Transformer(config)
    whole.load_state_dict(state)
    tokens = torch.randint(config.vocab_size, (3, 16), generator=torch.Generator().manual_seed(5))
    documents = (torch.arange(16) >= 6).long().expand(3, -1)
    positions = torch.arange(16).expand(3, -1) - 6 * documents
    x = tokens
    for rank in range(2):
        stage = Stage(config, Mesh(pp=2), Mesh(pp=2).coordinates(rank))
        load(stage, state, Mesh(pp=2), Mesh(pp=2).coordinates(rank), CPU)
        x = stage(x, targets_BS=next_token_targets(tokens), positions_BS=positions, documents_BS=documents)
    logits = whole(tokens, positions_BS=positions, documents_BS=documents)
    assert torch.allclose(x / (3 * 15), next_token_loss(logits, tokens), atol=1e-6)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("name", SHAPES)
def test_one_rank_trains_as_the_plain_trainer_does(name: str, checkpointing: str) -> None:
    # With a small eps Adam makes full steps of roundings, where a gradient is nothing else.
    config, recipe = SHAPES[name], Recipe(learning_rate=3e-3, warmup_steps=1, eps=1e-4)
    model = Transformer(config)
    model.load_state_dict(random_state(config))
    plain = Trainer(model, recipe)
    parallel = ParallelTrainer(
        config,
        random_state(config),
        alone(),
        recipe,
        n_micro_batches=2,
        checkpointing=checkpointing,  # type: ignore[arg-type]
    )
    for step in range(3):
        tokens = torch.randint(config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(step))
        with torch_instead():  # both in one form
            assert torch.allclose(parallel.step(tokens), plain.step(tokens), rtol=1e-5)
    trained = parallel.state_dict()
    assert all(torch.allclose(trained[name], t, atol=2e-5) for name, t in model.state_dict().items())


def test_balancing_counts_a_recomputed_layer_once() -> None:
    config = SHAPES["small-latent"]
    trainer = ParallelTrainer(config, random_state(config), alone(), checkpointing="full")
    stage = trainer.stages[0]
    tokens = torch.randint(64, (2, 16))
    stage(tokens, targets_BS=next_token_targets(tokens)).backward()
    layer = stage.blocks[1].ffn
    assert isinstance(layer, MoELayer) and layer.load_E is not None
    assert int(layer.load_E.sum()) == 2 * 16 * 3


def test_gradient_norm_and_clipping_are_torchs() -> None:
    trainer = ParallelTrainer(SMALL, random_state(SMALL), alone())
    stage = trainer.stages[0]
    tokens = torch.randint(64, (2, 16))
    stage(tokens, targets_BS=next_token_targets(tokens)).backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in stage.parameters() if p.grad is not None])
    gradients = Gradients([stage], alone())
    assert torch.allclose(gradients.norm(), expected, rtol=1e-5)
    assert torch.allclose(gradients.clip(0.5), expected, rtol=1e-5)
    assert torch.allclose(gradients.norm(), torch.tensor(0.5), rtol=1e-4)


def test_small_gradients_travel_together_and_large_ones_alone() -> None:
    sizes = [3, 5, BUCKET_ELEMENTS, 7]
    tensors = [torch.empty(size, device="meta") for size in sizes]
    tensors.append(torch.empty(2, device="meta", dtype=torch.bfloat16))
    assert [[t.numel() for t in bucket] for bucket in buckets(tensors)] == [
        [3, 5],
        [BUCKET_ELEMENTS],
        [7],
        [2],
    ]


def test_batches_and_pipelines_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MeshError, match="5 rows cannot be cut into 2"):
        require_even(5, 2)
    stages = [Stage(SMALL, Mesh(pp=4), Mesh(pp=4).coordinates(0))]
    fake = dataclasses.replace(alone(), mesh=Mesh(pp=4))
    with pytest.raises(MeshError, match="2 micro-batches cannot fill 4"):
        Pipeline(stages, fake, 2)
    with pytest.raises(MeshError, match="not a multiple of pp"):
        Pipeline(stages * 2, fake, 6)
    with pytest.raises(MeshError, match="interleaved stages need a pipeline"):
        runner([Stage(SMALL, Mesh(), Mesh().coordinates(0))] * 2, alone(), 2)


def test_a_trainer_refuses_a_mesh_that_the_model_cannot_have() -> None:
    fake = dataclasses.replace(alone(), mesh=Mesh(tp=3))
    with pytest.raises(MeshError, match="n_heads"):
        ParallelTrainer(SMALL, {}, fake)


def test_bf16_blocks_are_updated_through_an_fp32_master_copy() -> None:
    """Steps far below bf16's resolution add up."""
    recipe = Recipe(learning_rate=1e-5, warmup_steps=0, weight_decay=0.0)
    trainer = ParallelTrainer(SMALL, random_state(SMALL), alone(), recipe, block_dtype=torch.bfloat16)
    weight = trainer.stages[0].blocks[0].attention.w_q
    before = weight.detach().clone()
    part = next(part for part in trainer.optimizer.parts if part.parameter is weight)
    master = part.master.detach().clone()
    for step in range(3):
        trainer.step(torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(step)))
    assert weight.dtype is torch.bfloat16 and part.master.dtype is torch.float32
    moved = (part.master - master).abs()
    assert 1e-5 < moved.max() <= 4e-5
    assert torch.equal(weight.detach().view(-1), part.master.detach().bfloat16())
    assert (weight == before).float().mean() > 0.5  # most did not move in bf16 yet


def test_states_are_counted_in_bytes() -> None:
    plain = ParallelTrainer(SMALL, random_state(SMALL), alone())
    mixed = ParallelTrainer(SMALL, random_state(SMALL), alone(), block_dtype=torch.bfloat16)
    for trainer in (plain, mixed):
        trainer.step(torch.randint(64, (2, 16)))
    total = SMALL.total_parameters
    in_blocks = sum(p.numel() for p in mixed.stages[0].layers.parameters())
    assert plain.optimizer.state_bytes() == 8 * total
    assert mixed.optimizer.state_bytes() == 8 * total + 4 * in_blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_in_buckets_is_that_at_once_to_the_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> dict[str, torch.Tensor]:
        trainer = ParallelTrainer(SMALL, random_state(SMALL), alone(), Recipe(), block_dtype=dtype)
        for step in range(3):
            trainer.step(torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(step)))
        states = trainer.optimizer.state()
        kept = {f"{kind} {name}": value for kind in states for name, value in states[kind].items()}
        return {**trainer.state_dict(), **kept}

    at_once = trained()
    for module in (parallel_buckets, sharded_adamw):
        monkeypatch.setattr(module, "BUCKET_ELEMENTS", 256)
    in_buckets = trained()
    assert all(torch.equal(in_buckets[name], value) for name, value in at_once.items())


def test_an_update_casts_one_bucket_of_gradients_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parallel_buckets, sharded_adamw):
        monkeypatch.setattr(module, "BUCKET_ELEMENTS", 1024)
    trainer = ParallelTrainer(SMALL, random_state(SMALL), alone(), block_dtype=torch.bfloat16)
    trainer.step(torch.randint(64, (2, 16)))  # makes the states
    assert all(part.parameter.grad is not None for part in trainer.optimizer.parts)
    with LiveBytes() as live:
        trainer.optimizer.step()
    assert sum(p.numel() for p in trainer.stages[0].layers.parameters()) > 10 * 1024
    assert 1024 * 4 <= live.peak <= 2 * 1024 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["small-moe", "small-latent"])
def test_training_goes_on_bit_by_bit(name: str, dtype: torch.dtype) -> None:
    config, recipe = SHAPES[name], Recipe(learning_rate=3e-3, warmup_steps=2)

    def batch(step: int) -> torch.Tensor:
        return torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(step))

    straight = ParallelTrainer(config, random_state(config), alone(), recipe, block_dtype=dtype)
    losses = [straight.step(batch(step)) for step in range(4)]
    first = ParallelTrainer(config, random_state(config), alone(), recipe, block_dtype=dtype)
    for step in range(2):
        first.step(batch(step))
    saved = copy.deepcopy(first.training_state())
    second = ParallelTrainer(config, random_state(config, seed=9), alone(), recipe, block_dtype=dtype)
    second.load_training_state(saved)
    assert [second.step(batch(step)) for step in (2, 3)] == losses[2:]
    resumed = second.training_state()
    for kind, values in straight.training_state()["optimiser"].items():
        assert all(torch.equal(resumed["optimiser"][kind][name], value) for name, value in values.items())


def test_what_is_no_number_names_its_step_and_updates_nothing() -> None:
    trainer = ParallelTrainer(SMALL, random_state(SMALL), alone())
    trainer.update(packed_batch(), 0.01, is_packed=True)
    with torch.no_grad():
        trainer.stages[0].norm.weight[0] = float("nan")
    before = {name: value.clone() for name, value in trainer.state_dict().items()}
    with pytest.raises(NotFiniteError, match="the loss of step 2 is nan"):
        trainer.update(packed_batch(1), 0.01, is_packed=True)
    assert trainer.steps == 1
    for name, value in trainer.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


@pytest.mark.parametrize("mesh", [Mesh(dp=2, tp=2, pp=2, ep=2), Mesh(dp=2, tp=2, ep=4, etp=1)], ids=str)
def test_moments_are_cut_for_another_mesh_as_weights_are(mesh: Mesh) -> None:
    trainer = ParallelTrainer(SMALL, random_state(SMALL), alone())
    trainer.step(torch.randint(64, (2, 16)))
    moments = trainer.training_state()["optimiser"]["exp_avg"]
    of = layouts(SMALL, mesh)
    shards = {}
    for rank in range(mesh.world_size):
        at = mesh.coordinates(rank)
        named = Stage(SMALL, mesh, at).state_dict()
        shards[rank] = {name: of[name].cut(moments[name], mesh, at) for name in named}
    merged = merge(SMALL, mesh, shards)
    assert all(torch.equal(merged[name], moment) for name, moment in moments.items())
    assert merged["layers.1.ffn.experts.w_up"].abs().sum() > 0


def test_a_shard_of_another_mesh_is_not_gone_on_from() -> None:
    trainer = ParallelTrainer(SMALL, random_state(SMALL), alone())
    state = trainer.training_state()
    state["model"] = {**state["model"], "embedding": torch.zeros(32, 32)}
    with pytest.raises(MeshError, match="no embedding of shape"):
        trainer.load_training_state(state)
