"""The planner: parameters, memory and operations per rank, by hand for small cases."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import LatentConfig
from model.parallel.mesh.mesh import Mesh
from model.plan.activations import routed_rows, stage_activations, working_set
from model.plan.costs import (
    micro_batches_in_flight,
    model_flops_per_token,
    rank_memory,
    stage_flops,
    update_working_set,
)
from model.plan.layout import PRECISIONS, Checkpointing, Layout, Workload
from model.plan.shapes import model_of
from model.plan.sizes import Parameters, partial_parameters, rank_parameters, stage_parameters
from tests.model.plan.planned import MODEL, WORKLOAD

ALL_MODES: tuple[Checkpointing, ...] = ("none", "selective", "full")


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    ep = draw(st.sampled_from([1, 2, 4]))
    return Mesh(
        dp=ep * draw(st.sampled_from([1, 2])),
        tp=draw(st.sampled_from([1, 2, 4])),
        pp=draw(st.sampled_from([1, 2, 4, 8])),
        ep=ep,
    )


@given(meshes())
def test_what_ranks_hold_adds_up_to_the_whole_model(mesh: Mesh) -> None:
    """Split parameters once; replicated ones (norms, routers) once per tensor parallel rank."""
    held = [rank_parameters(MODEL, mesh, pp) for pp in range(mesh.pp)]
    expert = sum(part.expert for part in held) * mesh.tp * mesh.ep
    assert expert == 8 * 16 * 3 * 64 * 32
    whole = 8 * (2 * 64 + 16 * 64)  # two norms and the router of each layer
    dense = sum(part.block + part.outside for part in held)
    assert (dense - whole - 64) * mesh.tp + whole + 64 + expert == MODEL.total_parameters


def test_a_tied_embedding_lies_on_both_ends_and_chunks_are_counted_together() -> None:
    tied = dataclasses.replace(MODEL, tie_embeddings=True)
    table = 256 * 64
    assert stage_parameters(tied, Mesh(), 0, 1).outside == table + 64
    assert stage_parameters(tied, Mesh(pp=2), 0, 2).outside == table
    assert stage_parameters(tied, Mesh(pp=2), 1, 2).outside == table + 64
    assert stage_parameters(tied, Mesh(pp=4), 1, 4).outside == 0
    assert (
        rank_parameters(MODEL, Mesh(pp=2), 0, n_chunks=2).block == rank_parameters(MODEL, Mesh(pp=2), 0).block
    )


@pytest.mark.parametrize("mesh", [Mesh(tp=2, pp=2), Mesh(tp=4, dp=2, pp=2, ep=8, etp=1)], ids=str)
def test_norms_and_routers_are_whole_on_each_tensor_parallel_rank(mesh: Mesh) -> None:
    whole = 4 * (2 * 64 + 16 * 64)  # of half of the layers
    assert partial_parameters(MODEL, mesh, 0) == Parameters(block=whole)
    assert partial_parameters(MODEL, mesh, 1) == Parameters(block=whole, outside=64)


def test_latents_and_norms_of_heads_are_whole_on_each_tensor_parallel_rank() -> None:
    latent = LatentConfig(kv_rank=8, d_nope=12, d_rope=4, d_value=10, q_rank=6)
    config = dataclasses.replace(MODEL, n_layers=1, moe=None, n_kv_heads=8, latent=latent)
    down = (8 + 4) * 64 + 8 + 6 * 64 + 6  # of keys with values, and of queries; a norm each
    assert partial_parameters(config, Mesh(tp=2), 0) == Parameters(block=down + 2 * 64, outside=64)
    normed = dataclasses.replace(MODEL, n_layers=1, moe=None, qk_norm="head")
    assert partial_parameters(normed, Mesh(tp=2), 0).block == 2 * 16 + 2 * 64


def test_zero_spreads_states_then_gradients_then_weights() -> None:
    held = rank_parameters(MODEL, Mesh(dp=4), 0)
    blocks = held.block + held.expert
    for zero in range(4):
        memory = rank_memory(WORKLOAD, Layout(Mesh(dp=4), 1, "full", zero), 0)
        assert memory.optimiser == (blocks * 12 + held.outside * 8) / (4 if zero >= 1 else 1)
        assert memory.gradients == (blocks * 2 + held.outside * 4) / (4 if zero >= 2 else 1)
        assert memory.weights == (blocks * 2 + held.outside * 4) / (4 if zero >= 3 else 1)


def test_states_of_experts_are_spread_over_their_copies_only() -> None:
    mesh = Mesh(dp=4, ep=2)
    held = rank_parameters(MODEL, mesh, 0)
    memory = rank_memory(WORKLOAD, Layout(mesh, 1, "full", 1), 0)
    assert memory.optimiser == (held.block * 12 + held.outside * 8) / 4 + held.expert * 12 / 2


@given(meshes(), st.sampled_from([1, 2]))
def test_checkpointing_keeps_less_and_more_rows_keep_more(mesh: Mesh, rows: int) -> None:
    kept = [
        rank_memory(WORKLOAD, Layout(mesh, rows, mode), 0).activations
        for mode in ("none", "selective", "full")
    ]
    assert kept[0] > kept[1] > kept[2] > 0
    doubled = rank_memory(
        dataclasses.replace(WORKLOAD, batch=128), Layout(mesh, 2 * rows, "full"), 0
    ).activations
    assert doubled == pytest.approx(2 * kept[2])


def test_an_output_that_is_sent_is_kept_for_each_micro_batch_in_flight_or_not_at_all() -> None:
    keeping = Layout(Mesh(pp=4), 1, "full")
    freeing = dataclasses.replace(keeping, keeps_outputs=False)
    saved = [
        rank_memory(WORKLOAD, keeping, pp).activations - rank_memory(WORKLOAD, freeing, pp).activations
        for pp in range(4)
    ]
    stream = 128 * 64 * 4
    assert saved == [4 * stream, 3 * stream, 2 * stream, 0]


def test_a_split_sequence_keeps_its_share_of_the_stream_and_of_its_norms() -> None:
    """Of a layer that is computed again the stream alone, else all that saves gathered rows too."""

    def kept(checkpointing: Checkpointing, *, split: bool, stage: int) -> float:
        layout = Layout(Mesh(pp=4, tp=4), 1, checkpointing, splits_sequence=split)
        return stage_activations(WORKLOAD, layout, stage)

    stream, norm = 128 * 64 * 4, 128 * (64 * (4 + 2) + 4)
    assert kept("full", split=True, stage=1) == 3 * stream / 4  # two layers, and what is sent on
    assert kept("full", split=False, stage=1) == 3 * stream
    saved = {mode: kept(mode, split=False, stage=1) - kept(mode, split=True, stage=1) for mode in ALL_MODES}
    assert saved["selective"] == (2 * 2 + 1) * stream * 3 / 4
    assert saved["none"] == (2 * 2 * norm + stream) * 3 / 4
    last = 128 * (64 * (4 + 4) + 4)  # before the head, in fp32
    at_end = kept("full", split=False, stage=3) - kept("full", split=True, stage=3)
    assert at_end == (2 * stream + last) * 3 / 4


def test_gradients_that_arrive_lie_beside_those_of_the_micro_batches_before() -> None:
    """Three stacks of experts in bf16 from our kernels, one from torch's operations."""
    layout = Layout(Mesh(ep=2, dp=2, pp=4), 1, "none")
    stack = 16 // 2 * 64 * 32
    ours, torchs = (
        working_set(WORKLOAD, dataclasses.replace(layout, has_kernels=has), 1) for has in (True, False)
    )
    assert ours - torchs == pytest.approx(2 * 2 * stack)


def test_the_update_casts_and_squares_in_fp32_when_activations_are_gone() -> None:
    few = dataclasses.replace(WORKLOAD, tokens=1, batch=2)
    layout = Layout(Mesh(), 1, "full")
    held, memory = rank_parameters(MODEL, Mesh(), 0), rank_memory(few, layout, 0)
    assert update_working_set(few, layout, 0) == 4 * (held.block + held.expert)
    assert memory.activations + memory.working == 4 * (held.block + held.expert)
    spread = Layout(Mesh(dp=2), 1, "full")  # half is cast on each; all gradients travel in one message
    assert update_working_set(few, spread, 0) == 2 * (held.block + held.expert) + 4 * held.outside
    large = Workload(model_of(1e12), 1, 4, PRECISIONS["bf16"])
    sparse = Layout(Mesh(pp=32, tp=8), 1, "full")
    assert update_working_set(large, sparse, 1) == 8 * 256 * 7168 * 2816 / 8  # more than any bucket


@given(
    meshes(),
    st.sampled_from([1, 2]),
    st.sampled_from(ALL_MODES),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([(128, 64), (1, 64)]),
)
def test_a_run_that_chooses_its_precision_has_room_for_either(
    mesh: Mesh, rows: int, mode: Checkpointing, zero: int, is_latent: bool, size: tuple[int, int]
) -> None:
    """And for no more than the larger takes, but for the gradients that bf16 casts."""
    latent = LatentConfig(kv_rank=8, d_nope=12, d_rope=4, d_value=10) if is_latent else None
    config = dataclasses.replace(MODEL, latent=latent, n_kv_heads=8 if is_latent else 4)
    layout = Layout(mesh, rows, mode, zero)
    memory, cast = {}, 0.0
    for name, precision in PRECISIONS.items():
        workload = Workload(config, *size, precision)
        memory[name] = rank_memory(workload, layout, 0).total
        cast = max(cast, update_working_set(workload, layout, 0))
    larger = max(memory["fp32"], memory["bf16"])
    assert larger <= memory["auto"] <= larger + cast


def test_one_forward_one_backward_holds_as_many_as_there_are_stages_behind() -> None:
    layout = Layout(Mesh(pp=4), 1, "full")
    assert [micro_batches_in_flight(layout, pp, 16) for pp in range(4)] == [4, 3, 2, 1]
    assert micro_batches_in_flight(layout, 0, 2) == 2
    chunked = dataclasses.replace(layout, n_chunks=2)
    # as torch's interleaved schedule warms up: twice the ranks behind, a round of chunks, and the one at work
    assert [micro_batches_in_flight(chunked, pp, 16) for pp in range(4)] == [11, 9, 7, 5]


def test_flops_of_a_dense_layer_are_those_counted_by_hand() -> None:
    dense = dataclasses.replace(MODEL, moe=None, n_layers=1)
    attention = 64 * 16 * (8 + 4 + 4) + 8 * 16 * 64
    flops = stage_flops(dense, Layout(Mesh(), 1, "none"), 0, 128)
    scores = 2 * 64 * 8 * 2 * 16  # 64 keys on average, 8 heads, scores and sum of 16
    assert flops.expert == 0 and flops.head == 2 * 256 * 64
    assert flops.attention == 2 * attention + scores
    assert flops.plain == 2 * (attention + 3 * 64 * 128 + 256 * 64) + scores


def test_flops_of_attention_follow_its_window_and_the_widths_of_latents() -> None:
    def scores(tokens: int = 128, **change: object) -> float:
        dense = dataclasses.replace(MODEL, moe=None, n_layers=2, **change)
        return stage_flops(dense, Layout(Mesh(), 1, "none"), 0, tokens).plain

    per_key = 2 * 8 * 2 * 16  # of a layer: 8 heads, scores and sum of 16
    assert scores() - scores(sliding_window=10) == 2 * (64 - 10) * per_key
    assert scores() - scores(sliding_window=10, full_attention_layers=(1,)) == (64 - 10) * per_key
    assert scores(sliding_window=100) == scores()  # no query sees more than half of the row on average
    latent = LatentConfig(kv_rank=8, d_nope=12, d_rope=4, d_value=10)
    assert scores(tokens=128, latent=latent) - scores(tokens=64, latent=latent) == (
        2 * 32 * 2 * 8 * (12 + 4 + 10)
    )


def test_flops_are_split_evenly_and_the_model_counts_three_forward_passes() -> None:
    layout = Layout(Mesh(dp=2, tp=2, pp=2, ep=2), 1, "none")
    parts = [stage_flops(MODEL, layout, stage, 128) for stage in range(2)]
    whole = stage_flops(MODEL, Layout(Mesh(), 1, "none"), 0, 128)
    router = 8 * 2 * 16 * 64  # is not split over tp
    assert sum(part.expert for part in parts) * 2 == whole.expert
    assert sum(part.plain for part in parts) * 2 == whole.plain + router
    norms = (2 * 8 + 1) * 64
    products = 3 * (whole.plain + whole.expert)
    assert model_flops_per_token(MODEL, 128) == pytest.approx(products + 6 * norms, rel=1e-12)


def test_routed_rows_keep_their_places_where_tokens_are_and_where_experts_are() -> None:
    assert MODEL.moe is not None
    pair = 2 * (2 * 64 + 4 * 32) + 2 * 8  # bf16; sorted by expert
    assert routed_rows(MODEL.moe, 2, Layout(Mesh(), 1, "none")) == 2 * pair
    for tp in (1, 2):  # row and choice of a pair, its weight and a one; rows that a share of the tokens sends
        layout = Layout(Mesh(dp=2, tp=tp, ep=2), 1, "none")
        assert routed_rows(MODEL.moe, 2, layout) == pytest.approx(
            2 * (pair + 2 * 8 + 2 * 4) + 8 * 23 / 15 / tp
        )
