"""The planner: times and messages of a step, by hand for small cases."""

from __future__ import annotations

import dataclasses

import pytest

from model.parallel.mesh.mesh import Mesh
from model.plan.activations import ranks_per_token
from model.plan.cluster import Cluster, Network
from model.plan.costs import (
    bubble_share,
    estimate,
    rank_memory,
    stage_flops,
    step_times,
)
from model.plan.layout import Checkpointing, Layout
from model.plan.sizes import rank_parameters
from model.plan.traffic import step_traffic
from tests.model.plan.planned import CLUSTER, MODEL, WORKLOAD


def test_time_of_one_device_is_compute_and_the_optimiser() -> None:
    layout = Layout(Mesh(), 64, "none", 0)
    times = step_times(WORKLOAD, layout, CLUSTER)
    flops = stage_flops(MODEL, layout, 0, 128)
    assert times.compute == pytest.approx(3 * 64 * 128 * (flops.plain / 0.5e12 + flops.expert / 0.25e12))
    assert times.tp == times.ep == times.pp == times.dp == times.bubble == 0
    memory = rank_memory(WORKLOAD, layout, 0)
    assert times.optimiser == pytest.approx(
        (2 * memory.optimiser + memory.gradients + memory.weights) / 100e9
    )


def test_recomputation_costs_one_more_forward_pass_of_what_is_not_kept_and_no_mfu() -> None:
    """Of the head nothing; of attention, whose products selective checkpointing keeps, only the full one."""
    modes: tuple[Checkpointing, ...] = ("none", "selective", "full")
    none, selective, full = (estimate(WORKLOAD, Layout(Mesh(), 64, mode), CLUSTER) for mode in modes)
    flops = stage_flops(MODEL, Layout(Mesh(), 64, "none"), 0, 128)
    assert min(flops.attention, flops.ffn, flops.expert, flops.head) > 0
    on_feed_forwards = 64 * 128 * (flops.ffn / 0.5e12 + flops.expert / 0.25e12)
    assert selective.times.compute == pytest.approx(none.times.compute + on_feed_forwards)
    assert full.times.compute == pytest.approx(selective.times.compute + 64 * 128 * flops.attention / 0.5e12)
    assert full.mfu < selective.mfu < none.mfu < 0.5


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


@pytest.mark.parametrize(("checkpointing", "moves"), [("none", 8), ("full", 11), ("selective", 10)])
def test_a_split_sequence_is_gathered_and_scattered_once_per_half_of_a_layer(
    checkpointing: Checkpointing, moves: int
) -> None:
    """Each way; the embedding's sum and the head's input too, in fp32; what each rank has whole is a part of a gradient."""
    n_micro, stream, end = 4, 2 * 128 * 64 * 2, 2 * 128 * 64 * 4
    workload = dataclasses.replace(WORKLOAD, batch=2 * n_micro)
    layout = Layout(Mesh(tp=2), 2, checkpointing, splits_sequence=True)
    gradients = 8 * (2 * 64 + 16 * 64) * 2 + 64 * 4  # norms and routers in bf16, the last norm
    expected = n_micro * (8 * moves * stream + 4 * end + 3 * 256 * 4) + gradients
    assert step_traffic(workload, layout, 0) == {"tp": expected}


def test_experts_of_a_split_sequence_are_sent_the_same_rows_and_their_outputs_are_not_gathered() -> None:
    n_micro, stream = 4, 2 * 128 * 64 * 2
    workload = dataclasses.replace(WORKLOAD, batch=4 * n_micro)
    for mesh in (Mesh(dp=2, tp=2, ep=2), Mesh(dp=2, tp=2, ep=4, etp=1)):
        whole = Layout(mesh, 2, "none")
        split = dataclasses.replace(whole, splits_sequence=True)
        before, after = (step_traffic(workload, layout, 0) for layout in (whole, split))
        assert after["ep"] == before["ep"]
        # two all-reduces each way, outputs gathered, and so gradients of tokens and weights; now eight moves
        fewer = 8 * ((4 + 2) * stream + 2 * 128 * 2 * 4 - 8 * stream) - 2 * 2 * 128 * 64 * 4
        gradients = 8 * (2 * 64 + 16 * 64) * 2 + 64 * 4
        assert before["tp"] - after["tp"] == pytest.approx(n_micro * fewer - gradients, abs=n_micro * 8)


def test_a_gather_and_a_scatter_take_as_long_as_the_sum_that_they_replace() -> None:
    late = dataclasses.replace(CLUSTER, intra_latency_us=3.0)
    dense = dataclasses.replace(WORKLOAD, config=dataclasses.replace(MODEL, moe=None))
    whole = Layout(Mesh(tp=4, pp=2), 1, "none")
    split = dataclasses.replace(whole, splits_sequence=True)
    before, after = (step_times(dense, layout, late) for layout in (whole, split))
    assert after.tp == pytest.approx(before.tp) and after.compute == before.compute
    before, after = (step_times(WORKLOAD, layout, late) for layout in (whole, split))
    assert after.tp < before.tp  # tokens are gathered once for all experts


def test_stages_send_one_another_their_rank_s_positions() -> None:
    whole = Layout(Mesh(pp=4, tp=2), 1, "none")
    split = dataclasses.replace(whole, splits_sequence=True)
    for pp in range(4):
        assert step_traffic(WORKLOAD, split, pp)["pp"] == step_traffic(WORKLOAD, whole, pp)["pp"] / 2 > 0


def test_ranks_with_whole_experts_send_their_share_and_gather_outputs_alone() -> None:
    """Four ranks of ep on one node: 4 * 54 / 120 of them have an expert of a token, of which each sends half."""
    n_micro, stream, weights = 4, 2 * 128 * 64 * 2, 2 * 128 * 2 * 4
    workload = dataclasses.replace(WORKLOAD, batch=4 * n_micro)
    layout = Layout(Mesh(dp=2, tp=2, ep=4, etp=1), 2, "none")
    found = step_traffic(workload, layout, 0)
    sent = 4 * 54 / 120 / 2 * (4 * stream + 2 * weights + 2 * weights)
    assert found["ep"] == pytest.approx(n_micro * 8 * (sent + 4 * 8), abs=n_micro * 8)
    end = 2 * 128 * 64 * 4  # the embedding's sum and the gradient of the head's input
    # sums of attention and shared experts, the outputs and the gradients of what was split
    gathered = 4 * stream + 2 * stream + weights
    assert found["tp"] == n_micro * (8 * gathered + 2 * end + 3 * 256 * 4)
    seconds = step_times(workload, layout, CLUSTER).ep
    assert seconds == pytest.approx(n_micro * 8 * (sent + 4 * 8) * 3 / 4 / 10e9)  # the fast links alone


def test_copies_of_whole_experts_lie_ep_ranks_apart() -> None:
    layout = Layout(Mesh(dp=4, tp=2, ep=4, etp=1), 1, "none", 0)  # two copies, on two nodes: 1 GB/s
    held = rank_parameters(MODEL, layout.mesh, 0)
    dense = 6 * (held.block * 2 + held.outside * 4) / 4 / 2e9  # four ranks two apart, two of them on a node
    expert = 2 * held.expert * 2 / 2 / 1e9
    assert held.expert == 8 * 16 // 4 * 3 * 64 * 32  # layers, experts, three stacks of whole widths
    assert step_times(WORKLOAD, layout, CLUSTER).dp == pytest.approx(dense + expert)


def test_experts_compute_the_same_whether_they_are_whole_or_split() -> None:
    split, whole = Mesh(dp=4, tp=2, ep=2), Mesh(dp=4, tp=2, ep=4, etp=1)
    assert rank_parameters(MODEL, split, 0) == rank_parameters(MODEL, whole, 0)
    assert stage_flops(MODEL, Layout(split, 1, "none"), 0, 128) == stage_flops(
        MODEL, Layout(whole, 1, "none"), 0, 128
    )


def test_rings_within_a_node_are_faster_than_those_that_leave_it() -> None:
    assert CLUSTER.network(1, 4) == Network(4, 4, 10.0, 0.0)
    assert CLUSTER.network(1, 8) == Network(8, 4, 4.0, 0.0)  # four adapters at 1 GB/s
    assert CLUSTER.network(4, 8) == Network(8, 1, 1.0, 0.0)
    assert dataclasses.replace(CLUSTER, inter_gb_s=5.0).network(1, 8).gb_s == 10.0
