"""The planner: parameters per rank, memory and time by hand for small cases, the search and its command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ConfigError, LatentConfig, ModelConfig, MoEConfig
from model.parallel.mesh import Mesh
from model.plan.__main__ import main
from model.plan.activations import ranks_per_token, routed_rows, working_set
from model.plan.cluster import Cluster, ClusterError, Network, cluster_from, read_cluster, shipped
from model.plan.costs import (
    bubble_share,
    estimate,
    micro_batches_in_flight,
    model_flops_per_token,
    rank_memory,
    stage_flops,
    step_times,
    update_working_set,
)
from model.plan.layout import PRECISIONS, Checkpointing, Layout, Workload
from model.plan.search import refusal, search
from model.plan.shapes import model_of
from model.plan.sizes import rank_parameters, stage_parameters
from model.plan.traffic import step_traffic

MODEL = ModelConfig(
    name="m",
    vocab_size=256,
    d_model=64,
    n_layers=8,
    n_heads=8,
    n_kv_heads=4,
    d_head=16,
    d_ff=128,
    max_context=128,
    tie_embeddings=False,
    moe=MoEConfig(d_model=64, d_expert=32, n_experts=16, top_k=2, n_shared=1),
)
CLUSTER = Cluster(
    name="c",
    source="made up",
    devices_per_node=4,
    memory_gib=1.0,
    flops=1e12,
    memory_gb_s=100.0,
    intra_gb_s=10.0,
    inter_gb_s=1.0,
    efficiency=0.5,
    expert_efficiency=0.25,
)
WORKLOAD = Workload(MODEL, tokens=128, batch=64, precision=PRECISIONS["bf16"])


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
    plain, expert = stage_flops(dense, Layout(Mesh(), 1, "none"), 0, 128)
    scores = 2 * 64 * 8 * 2 * 16  # 64 keys on average, 8 heads, scores and sum of 16
    assert expert == 0
    assert plain == 2 * (attention + 3 * 64 * 128 + 256 * 64) + scores


def test_flops_of_attention_follow_its_window_and_the_widths_of_latents() -> None:
    def scores(tokens: int = 128, **change: object) -> float:
        dense = dataclasses.replace(MODEL, moe=None, n_layers=2, **change)
        return stage_flops(dense, Layout(Mesh(), 1, "none"), 0, tokens)[0]

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
    assert sum(expert for _, expert in parts) * 2 == whole[1]
    assert sum(plain for plain, _ in parts) * 2 == whole[0] + router
    norms = (2 * 8 + 1) * 64
    assert model_flops_per_token(MODEL, 128) == pytest.approx(3 * sum(whole) + 6 * norms, rel=1e-12)


def test_time_of_one_device_is_compute_and_the_optimiser() -> None:
    layout = Layout(Mesh(), 64, "none", 0)
    times = step_times(WORKLOAD, layout, CLUSTER)
    plain, expert = stage_flops(MODEL, layout, 0, 128)
    assert times.compute == pytest.approx(3 * 64 * 128 * (plain / 0.5e12 + expert / 0.25e12))
    assert times.tp == times.ep == times.pp == times.dp == times.bubble == 0
    memory = rank_memory(WORKLOAD, layout, 0)
    assert times.optimiser == pytest.approx(
        (2 * memory.optimiser + memory.gradients + memory.weights) / 100e9
    )


def test_recomputation_costs_a_third_of_the_compute_and_no_mfu() -> None:
    plain, full = (estimate(WORKLOAD, Layout(Mesh(), 64, mode), CLUSTER) for mode in ("none", "full"))
    assert full.times.compute == pytest.approx(plain.times.compute * 4 / 3)
    assert full.mfu < plain.mfu < 0.5


def test_experts_that_few_tokens_reach_cost_their_reading() -> None:
    slow = dataclasses.replace(CLUSTER, memory_gb_s=0.1)
    layout = Layout(Mesh(), 1, "none")
    ample = step_times(WORKLOAD, layout, CLUSTER).compute
    assert step_times(WORKLOAD, layout, slow).compute > 2 * ample


def test_the_bubble_shrinks_with_micro_batches_and_chunks() -> None:
    few = step_times(WORKLOAD, Layout(Mesh(pp=4), 16, "none"), CLUSTER)
    many = step_times(WORKLOAD, Layout(Mesh(pp=4), 4, "none"), CLUSTER)
    chunked = step_times(WORKLOAD, Layout(Mesh(pp=4), 4, "none", n_chunks=2), CLUSTER)
    assert few.bubble / (few.compute + few.pp) == pytest.approx(3 / 4)
    assert many.bubble / (many.compute + many.pp) == pytest.approx(3 / 16)
    assert chunked.bubble / (chunked.compute + chunked.pp) == pytest.approx(3 / 32)
    assert bubble_share(few) > bubble_share(many) > bubble_share(chunked)


def test_messages_of_each_axis_by_hand() -> None:
    stream, n_micro = 2 * 128 * 64, 4
    workload = dataclasses.replace(WORKLOAD, batch=2 * n_micro)
    assert step_traffic(workload, Layout(Mesh(), 2, "none"), 0) == {}
    tensor = step_traffic(workload, Layout(Mesh(tp=2), 2, "none"), 0)
    # three sums forward and three backward per layer in bf16, the weights' gradients, and embedding, head and loss
    per_micro = 8 * (6 * 2 * stream + 256 * 2 * 4) + 2 * 4 * stream + 3 * 256 * 4
    assert tensor == {"tp": n_micro * per_micro}
    experts = step_traffic(
        dataclasses.replace(workload, batch=4 * n_micro), Layout(Mesh(dp=2, ep=2), 2, "none"), 0
    )
    # 23 / 15 ranks per token: the stream there and back, twice; weights there and back; choices
    rows = 23 / 15 * (4 * 2 * stream + 2 * 256 * 2 * 4 + 256 * 2 * 8)
    assert experts["ep"] == pytest.approx(n_micro * 8 * (rows + 2 * 8), abs=n_micro * 8)
    held = rank_parameters(MODEL, Mesh(dp=2, ep=2), 0)
    gradients = held.block * 2 + held.outside * 4
    assert experts["dp"] == gradients + gradients // 2  # and as many bytes of weights, half of them from here
    unsharded = step_traffic(
        dataclasses.replace(workload, batch=4 * n_micro), Layout(Mesh(dp=2, ep=2), 2, "none", zero=0), 0
    )
    assert unsharded["dp"] == gradients
    pipeline = Layout(Mesh(pp=4), 2, "none")
    assert [step_traffic(workload, pipeline, pp)["pp"] for pp in range(4)] == [
        n_micro * stream * 4 * neighbours for neighbours in (1, 2, 2, 1)
    ]


def test_gradients_and_weights_travel_around_rings_with_a_latency_for_each_hop() -> None:
    late = dataclasses.replace(CLUSTER, intra_latency_us=3.0, inter_latency_us=50.0)

    def seconds(mesh: Mesh, zero: int) -> float:
        return step_times(WORKLOAD, Layout(mesh, 1, "none", zero), late).dp

    held = rank_parameters(MODEL, Mesh(), 0)
    size = (held.block + held.expert) * 2 + held.outside * 4  # gradients and weights alike
    hop = size / 8 / 4e9 + 50e-6  # eight ranks, four of them on a node: 4 GB/s
    hops = [14, 14 + 7, 7 + 7, 7 + 2 * 7]
    assert [seconds(Mesh(dp=8), zero) for zero in range(4)] == pytest.approx([n * hop for n in hops])
    half = rank_parameters(MODEL, Mesh(tp=2), 0)  # four ranks two apart, two of them on a node: 2 GB/s
    size = (half.block + half.expert) * 2 + half.outside * 4
    assert seconds(Mesh(dp=4, tp=2), 0) == pytest.approx(6 * (size / 4 / 2e9 + 50e-6))
    spread = rank_parameters(MODEL, Mesh(dp=8, ep=4), 0)  # an expert's two copies are on two nodes: 1 GB/s
    dense = 14 * ((spread.block * 2 + spread.outside * 4) / 8 / 4e9 + 50e-6)
    assert seconds(Mesh(dp=8, ep=4), 0) == pytest.approx(dense + 2 * (spread.expert * 2 / 2 / 1e9 + 50e-6))


def test_a_tied_embedding_s_gradients_are_added_up_over_both_ends() -> None:
    late = dataclasses.replace(CLUSTER, intra_latency_us=3.0)
    tied = dataclasses.replace(WORKLOAD, config=dataclasses.replace(MODEL, tie_embeddings=True))
    layout = Layout(Mesh(pp=2, tp=2), 1, "none")
    assert [step_traffic(tied, layout, pp)["ends"] for pp in range(2)] == [256 * 64 * 4 // 2] * 2
    assert step_times(tied, layout, late).dp == pytest.approx(2 * (256 * 64 * 4 / 2 / 2 / 10e9 + 3e-6))
    three = Layout(Mesh(pp=4), 1, "none")
    assert [step_traffic(tied, three, pp)["ends"] > 0 for pp in range(4)] == [True, False, False, True]


def test_tokens_travel_to_experts_within_a_node_and_out_of_it_at_once() -> None:
    late = dataclasses.replace(CLUSTER, intra_latency_us=3.0, inter_latency_us=50.0)
    slow_links = dataclasses.replace(late, intra_gb_s=0.5)
    reached = {8: 8 * 29 / 120, 4: 4 * 54 / 120}  # ranks that hold one of two experts of 16
    row = (
        4 * 64 * 2 + 2 * 2 * 4 + 2 * 8
    )  # there and back in bf16 both ways, two weights both ways, two numbers

    def per_layer(n_ranks: int, cluster: Cluster) -> float:
        layout = Layout(Mesh(dp=n_ranks, ep=n_ranks), 1, "none")
        return step_times(WORKLOAD, layout, cluster).ep / (64 // n_ranks * 8)

    def expected(n_ranks: int, share: float, bytes_per_s: float, latencies: float) -> float:
        return (128 * reached[n_ranks] * row + n_ranks * 8) * share / bytes_per_s + 8 * latencies

    assert per_layer(8, late) == pytest.approx(expected(8, 4 / 8, 1e9, 7 * 50e-6))  # half leaves the node
    assert per_layer(4, late) == pytest.approx(expected(4, 3 / 4, 10e9, 3 * 3e-6))  # nothing does
    assert per_layer(8, slow_links) == pytest.approx(expected(8, 3 / 8, 0.5e9, 7 * 50e-6))


def test_stages_send_to_neighbours_with_one_latency_each() -> None:
    late = dataclasses.replace(CLUSTER, intra_latency_us=3.0, inter_latency_us=50.0)
    stream = 128 * 64 * 4  # bytes of a row; the last stage, busiest by the head, sends to one neighbour
    near = step_times(WORKLOAD, Layout(Mesh(pp=4), 1, "none"), late)
    assert near.pp == pytest.approx(64 * (stream / 10e9 + 3e-6))
    far = step_times(WORKLOAD, Layout(Mesh(pp=2, dp=4), 1, "none"), late)  # on another node
    assert far.pp == pytest.approx(16 * (stream / 1e9 + 50e-6))


def test_tokens_go_to_each_rank_of_their_experts_once() -> None:
    """Two of 16 experts: on the same one of 16 ranks never, of 2 ranks with a chance of 7 in 15."""
    assert MODEL.moe is not None
    assert [ranks_per_token(MODEL.moe, ep) for ep in (1, 2, 16)] == pytest.approx([1, 1 + 8 / 15, 2])


@pytest.mark.parametrize(
    ("checkpointing", "moves", "sums", "outputs"),
    [("none", 4, 4, 2), ("full", 6, 5, 3), ("selective", 6, 4, 3)],
)
def test_tensor_parallel_ranks_send_a_share_of_the_tokens_and_gather_what_arrives(
    checkpointing: Checkpointing, moves: int, sums: int, outputs: int
) -> None:
    """Attention and shared experts are added up; outputs of routed experts are gathered, once more when recomputed."""
    n_micro, stream, weights = 4, 2 * 128 * 64 * 2, 2 * 128 * 2 * 4  # the stream in bf16, weights in fp32
    workload = dataclasses.replace(WORKLOAD, batch=4 * n_micro)
    found = step_traffic(workload, Layout(Mesh(dp=2, tp=2, ep=2), 2, checkpointing), 0)
    passes = (
        moves // 2 - 1
    )  # forward passes, which alone send choices (twice the bytes of weights) and counts
    rows = 23 / 15 * (moves * stream + (passes + 1) * weights + passes * 2 * weights)
    counts = passes * 2 * 8
    assert found["ep"] == pytest.approx(n_micro * 8 * (rows / 2 + counts), abs=n_micro * 8)
    routed = rows + counts + outputs * stream + weights
    end = 2 * 128 * 64 * 4  # the embedding's sum and the gradient of the head's input
    expected = n_micro * (8 * (sums * stream + routed) + 2 * end + 3 * 256 * 4)
    assert found["tp"] == pytest.approx(expected, abs=n_micro * 8)


def test_routed_rows_keep_their_places_where_tokens_are_and_where_experts_are() -> None:
    assert MODEL.moe is not None
    pair = 2 * (2 * 64 + 4 * 32) + 2 * 8  # bf16; sorted by expert
    assert routed_rows(MODEL.moe, 2, Layout(Mesh(), 1, "none")) == 2 * pair
    for tp in (1, 2):  # row and choice of a pair, its weight and a one; rows that a share of the tokens sends
        layout = Layout(Mesh(dp=2, tp=tp, ep=2), 1, "none")
        assert routed_rows(MODEL.moe, 2, layout) == pytest.approx(
            2 * (pair + 2 * 8 + 2 * 4) + 8 * 23 / 15 / tp
        )


def test_rings_within_a_node_are_faster_than_those_that_leave_it() -> None:
    assert CLUSTER.network(1, 4) == Network(4, 4, 10.0, 0.0)
    assert CLUSTER.network(1, 8) == Network(8, 4, 4.0, 0.0)  # four adapters at 1 GB/s
    assert CLUSTER.network(4, 8) == Network(8, 1, 1.0, 0.0)
    assert dataclasses.replace(CLUSTER, inter_gb_s=5.0).network(1, 8).gb_s == 10.0


@settings(max_examples=25, deadline=None)
@given(st.floats(1e9, 3e12))
def test_shapes_have_about_the_parameters_that_were_asked_for(parameters: float) -> None:
    config = model_of(parameters)
    assert config.total_parameters == pytest.approx(parameters, rel=0.03)
    assert config.n_layers % 8 == 0 and config.n_heads % config.n_kv_heads == 0


def test_too_few_parameters_have_no_shape() -> None:
    with pytest.raises(ConfigError, match="at least 1e9"):
        model_of(1e8)
    for value in ("inf", "nan", "-inf"):
        with pytest.raises(ConfigError, match="at least 1e9"):
            model_of(float(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_gb": 80}, "unknown key 'memory_gb', did you mean 'memory_gib'"),
        ({"flops": "fast"}, "flops must be a number"),
        ({"flops": True}, "flops must be a number"),
        ({"name": 3}, "name must be a text"),
        ({"devices_per_node": 4.5}, "whole number"),
        ({"efficiency": 1.5}, "share of peak"),
        ({"inter_gb_s": 0}, "inter_gb_s must be above 0"),
        ({"intra_latency_us": -1}, "must not be negative"),
        ({"reserved_gib": 2.0}, "no memory for tensors"),
    ],
)
def test_wrong_clusters_are_refused_by_key(change: dict, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        cluster_from({**dataclasses.asdict(CLUSTER), **change}, "file.toml")


def test_missing_keys_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"missing .* 'source'"):
        cluster_from({"name": "c"}, "file.toml")
    with pytest.raises(ClusterError, match="h100-80gb"):
        read_cluster("no-such-cluster")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ClusterError, match="cannot be read"):
        read_cluster(str(broken))


def test_shipped_clusters_are_readable_and_say_where_their_figures_are_from() -> None:
    assert {"h100-80gb", "h200-141gb"} <= set(shipped())
    assert all("assumed" in read_cluster(name).source for name in shipped())


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(Mesh(dp=3), 1, "none"), "cannot be cut"),
        (Layout(Mesh(pp=8), 16, "none"), "4 micro-batches cannot fill 8"),
        (Layout(Mesh(pp=2), 1, "none", zero=2), "no tp or pp"),
        (Layout(Mesh(dp=2, tp=2), 1, "none", zero=2), "no tp or pp"),
        (Layout(Mesh(tp=2), 1, "none", zero=3), "no tp or pp"),
        (Layout(Mesh(dp=2), 1, "full", zero=2), None),
        (Layout(Mesh(dp=2, ep=2), 1, "none", zero=3), "ZeRO 3"),
        (Layout(Mesh(dp=2, ep=2), 1, "none", zero=2), None),
        (Layout(Mesh(dp=2), 1, "none", zero=3), None),
        (Layout(Mesh(), 1, "none", n_chunks=2), "need a pipeline"),
        (Layout(Mesh(pp=8), 1, "none", n_chunks=4), "8 layers do not make 32"),
        (Layout(Mesh(pp=4), 8, "none", n_chunks=2), None),
        (Layout(Mesh(dp=2, tp=2, pp=2, ep=2), 1, "full"), None),
    ],
)
def test_layouts_that_cannot_run_are_refused(layout: Layout, message: str | None) -> None:
    reason = refusal(WORKLOAD, layout)
    assert (reason is None) if message is None else (reason is not None and message in reason)


def test_search_returns_what_fits_fastest_first_and_counts_the_rest() -> None:
    few_heads = dataclasses.replace(WORKLOAD, config=dataclasses.replace(MODEL, n_kv_heads=2))
    plan = search(few_heads, CLUSTER, 8)
    assert plan.estimates
    steps = [found.times.step for found in plan.estimates]
    assert steps == sorted(steps)
    assert all(found.memory.total <= CLUSTER.usable_bytes for found in plan.estimates)
    assert all(found.layout.mesh.world_size == 8 for found in plan.estimates)
    assert any("heads" in entry.example for entry in plan.refused.values())
    assert any("equal interleaved stages" in entry.example for entry in plan.refused.values())
    tiny = search(WORKLOAD, dataclasses.replace(CLUSTER, memory_gib=0.001), 8)
    assert not tiny.estimates
    reasons = [entry for entry in tiny.refused.values() if "GiB" in entry.reason]
    assert len(reasons) == 1 and reasons[0].count > 50


def test_search_offers_zero_two_and_three_only_as_a_trainer_runs_them() -> None:
    plan = search(WORKLOAD, CLUSTER, 8, (2, 3))
    assert {found.layout.zero for found in plan.estimates} == {2, 3}
    for found in plan.estimates:
        mesh = found.layout.mesh
        assert (mesh.tp, mesh.pp) == (1, 1)
        assert found.layout.zero == 2 or mesh.ep == 1


def test_search_prefers_no_recomputation_where_memory_allows() -> None:
    assert search(WORKLOAD, CLUSTER, 4).estimates[0].layout.checkpointing == "none"


def test_a_trillion_parameters_fit_on_256_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--params", "1e12", "--devices", "256", "--json", "--top", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parameters"] == pytest.approx(1e12, rel=0.03)
    best = document["rows"][0]
    assert best["pp"] * best["tp"] * best["dp"] == 256
    assert best["memory_bytes"] <= (79.6 - 4) * 2**30
    parts = ("weights", "gradients", "optimiser", "activations", "working")
    assert best["memory_bytes"] == pytest.approx(sum(best[f"{part}_bytes"] for part in parts))
    # all weights, gradients and states of the experts alone are 62 GB on each of 256 devices
    assert best["memory_bytes"] > 62e9
    assert document["refused"]


def test_the_table_names_the_source_and_the_refusals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "shape.json"
    file.write_text(json.dumps(MODEL.to_dict()))
    assert main(["--config", str(file), "--devices", "4", "--tokens", "128", "--batch", "64"]) == 0
    out = capsys.readouterr().out
    assert "computed, not measured" in out and "efficiencies assumed" in out
    assert "Refused:" in out and "MFU" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "nowhere.json", "--devices", "4"],
        ["--params", "1e6", "--devices", "4"],
        ["--params", "inf", "--devices", "8"],
        ["--params", "nan", "--devices", "8"],
        ["--params", "1e9", "--devices", "0"],
        ["--params", "1e9", "--devices", "4", "--cluster", "nowhere"],
        ["--config", "tiny", "--devices", "4", "--tokens", "4096"],
    ],
)
def test_unusable_input_ends_with_code_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_name_that_is_no_model_is_told_what_the_presets_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, message in (
        (None, "neither a preset (tiny, smollm2) nor a file that can be read"),
        ("{", "is no JSON"),
        ("[1]", "holds no model configuration"),
    ):
        file = tmp_path / "nope"
        if text is not None:
            file.write_text(text)
        assert main(["--config", str(file), "--devices", "4"]) == 2
        assert message in capsys.readouterr().err


def test_planning_needs_no_torch() -> None:
    code = "import sys, model.plan.__main__ as m; m.main(['--config', 'tiny', '--devices', '2', '--tokens', '64', '--json']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
