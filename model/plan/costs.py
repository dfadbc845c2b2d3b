"""Memory and time of one layout on a cluster, in closed form. Does not import torch.

Memory follows model/parallel and ZeRO (arXiv:1910.02054); the 1F1B schedule holds as many micro-batches in flight as
there are stages behind (arXiv:2104.04473). Time is the slowest stage's compute and communication, one after the other
without any overlap, times the micro-batches and the pipeline's fill; so it is on the safe side of what a good engine
reaches. Expert load is taken as even.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.parallel.buckets import BUCKET_ELEMENTS
from model.parallel.mesh.mesh import split_layers
from model.parallel.mesh.share import local_config
from model.plan.activations import FP32_BYTES, largest_parameter, stage_activations, working_set
from model.plan.cluster import Cluster, Network
from model.plan.layout import Checkpointing, Layout, Workload
from model.plan.sizes import rank_parameters
from model.plan.traffic import Message, gradient_messages, micro_batch_messages

FP32_STATE_BYTES = 8  # AdamW's two moments; fp32 parameters need no master copy


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device of a layout."""

    weights: float
    gradients: float
    optimiser: float
    activations: float  # of all micro-batches in flight
    working: float  # temporary tensors at the peak

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.activations + self.working


@dataclass(frozen=True)
class Times:
    """Seconds of one optimiser step: the busiest stage's, by kind of work, and the pipeline's idle share."""

    compute: float
    tp: float
    ep: float
    pp: float
    dp: float
    optimiser: float
    bubble: float

    @property
    def step(self) -> float:
        return self.compute + self.tp + self.ep + self.pp + self.dp + self.optimiser + self.bubble


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a layout; `mfu` is model FLOP/s over the cluster's peak, recomputation not counted."""

    layout: Layout
    memory: Memory
    times: Times
    tokens_per_s: float
    mfu: float


def estimate(workload: Workload, layout: Layout, cluster: Cluster) -> Estimate:
    """Estimate a layout that `mesh.check` accepts and whose micro-batches divide the batch."""
    memory, times = fullest_memory(workload, layout), step_times(workload, layout, cluster)
    tokens_per_s = workload.tokens_per_step / times.step
    flops = tokens_per_s * model_flops_per_token(workload.config, workload.tokens)
    return Estimate(layout, memory, times, tokens_per_s, flops / (layout.mesh.world_size * cluster.flops))


def fullest_memory(workload: Workload, layout: Layout) -> Memory:
    """Memory of the rank that needs most."""
    ranks = range(layout.mesh.pp)
    return max((rank_memory(workload, layout, pp) for pp in ranks), key=lambda held: held.total)


def rank_memory(workload: Workload, layout: Layout, pp: int) -> Memory:
    """Memory of a rank at place `pp` of the pipeline axis."""
    mesh, precision = layout.mesh, workload.precision
    held = rank_parameters(workload.config, mesh, pp, layout.n_chunks)

    def spread(bytes_each: float, outside_bytes: float, from_stage: int) -> float:
        is_spread = layout.zero >= from_stage
        dense = (held.block * bytes_each + held.outside * outside_bytes) / (mesh.dp if is_spread else 1)
        return dense + held.expert * bytes_each / (mesh.edp if is_spread else 1)

    stages = layout.stages(pp)
    in_flight = micro_batches_in_flight(layout, pp, layout.micro_batches(workload))
    activations = (
        sum(stage_activations(workload, layout, stage) for stage in stages) * in_flight / len(stages)
    )
    backward = max(working_set(workload, layout, stage) for stage in stages)
    return Memory(
        weights=spread(precision.block_bytes, FP32_BYTES, 3),
        gradients=spread(precision.gradient_bytes, FP32_BYTES, 2),
        optimiser=spread(precision.state_bytes, FP32_STATE_BYTES, 1),
        activations=activations,
        working=max(backward, update_working_set(workload, layout, pp) - activations),
    )


def update_working_set(workload: Workload, layout: Layout, pp: int) -> float:
    """Temporary bytes after the last backward pass of a step, without activations.

    The largest of: gradients in one message; one parameter's squares in fp32, for the global norm, and an fp32 copy of
    it if it is narrower; the fp32 gradients that are cast at once for the optimiser.
    """
    precision, mesh = workload.precision, layout.mesh
    held = rank_parameters(workload.config, mesh, pp, layout.n_chunks)
    messages = gradient_messages(workload, layout, pp)
    travelling = max((message.size for message in messages if message.kind == "all_reduce"), default=0)
    largest = _largest_parameter(workload, layout, pp)
    if not precision.casts_gradients:
        return max(FP32_BYTES * largest, min(travelling, FP32_BYTES * BUCKET_ELEMENTS))
    n_dp, n_edp = (mesh.dp, mesh.edp) if layout.zero else (1, 1)
    cast = FP32_BYTES * (held.block / n_dp + held.expert / n_edp)
    return max(2 * FP32_BYTES * largest, min(max(travelling, cast), FP32_BYTES * BUCKET_ELEMENTS))


def _largest_parameter(workload: Workload, layout: Layout, pp: int) -> int:
    """Elements of the largest parameter of a rank at place `pp` of the pipeline axis."""
    config = local_config(workload.config, layout.mesh.tp, layout.mesh.etp)
    layers = [
        layer
        for stage in layout.stages(pp)
        for layer in split_layers(config.n_layers, layout.n_stages)[stage]
    ]
    largest = max(largest_parameter(config, layer, layout) for layer in layers)
    is_end = pp in (0, layout.mesh.pp - 1)
    return max(largest, config.vocab_size * config.d_model) if is_end else largest


def micro_batches_in_flight(layout: Layout, pp: int, n_micro: int) -> int:
    """Stage inputs that a rank holds at once, counted over its chunks."""
    if layout.n_chunks == 1:
        return min(n_micro, layout.mesh.pp - pp)
    warm_up = 2 * (layout.mesh.pp - pp - 1) + (layout.n_chunks - 1) * layout.mesh.pp + 1
    return min(n_micro * layout.n_chunks, warm_up)


def step_times(workload: Workload, layout: Layout, cluster: Cluster) -> Times:
    """Times of the rank that is busiest per micro-batch; all others wait for it."""
    busiest = max(
        range(layout.mesh.pp), key=lambda pp: sum(_micro_batch(workload, layout, cluster, pp).values())
    )
    each = _micro_batch(workload, layout, cluster, busiest)
    n_micro = layout.micro_batches(workload)
    sync = {
        pp: sum(_seconds(message, layout, cluster) for message in gradient_messages(workload, layout, pp))
        for pp in range(layout.mesh.pp)
    }
    return Times(
        compute=each["compute"] * n_micro,
        tp=each["tp"] * n_micro,
        ep=each["ep"] * n_micro,
        pp=each["pp"] * n_micro,
        dp=max(sync.values()),
        optimiser=_optimiser_seconds(workload, layout, cluster),
        bubble=sum(each.values()) * (layout.mesh.pp - 1) / layout.n_chunks,
    )


def bubble_share(times: Times) -> float:
    """Share of a step in which the busiest stage waits for its pipeline to fill and drain."""
    return times.bubble / times.step


def model_flops_per_token(config: ModelConfig, tokens: int) -> float:
    """FLOPs of forward and backward without recomputation: 6 per multiplying parameter, and attention's products."""
    multiplied = config.active_parameters - (
        0 if config.tie_embeddings else config.vocab_size * config.d_model
    )
    return 6 * multiplied + 3 * sum(
        attention_flops(config, layer, tokens) for layer in range(config.n_layers)
    )


@dataclass(frozen=True)
class StageFlops:
    """FLOPs of one rank's forward pass through a stage, per token; `ffn` are feed-forwards except routed experts."""

    attention: float
    ffn: float
    expert: float
    head: float

    @property
    def plain(self) -> float:
        return self.attention + self.ffn + self.head

    def plain_again(self, checkpointing: Checkpointing) -> float:
        """Recomputed part of `plain`: never the head, which keeps its probabilities."""
        return {"none": 0.0, "selective": self.ffn, "full": self.attention + self.ffn}[checkpointing]


def stage_flops(config: ModelConfig, layout: Layout, stage: int, tokens: int) -> StageFlops:
    """FLOPs of a stage for rows of `tokens` tokens."""
    local = local_config(config, layout.mesh.tp, layout.mesh.etp)
    attention, ffn, expert = 0.0, 0.0, 0.0
    for layer in split_layers(config.n_layers, layout.n_stages)[stage]:
        attention += 2 * local.attention_parameters + attention_flops(local, layer, tokens)
        if local.moe is not None and local.is_moe_layer(layer):
            routed = local.moe.top_k * 3 * local.d_model * local.moe.d_expert
            expert += 2 * routed / (layout.mesh.tp if layout.mesh.is_folded else 1)  # its share of the tokens
            ffn += 2 * (local.moe.active_parameters - routed)
        else:
            ffn += 2 * 3 * local.d_model * local.d_ff
    is_last = stage == layout.n_stages - 1
    return StageFlops(attention, ffn, expert, 2 * local.vocab_size * local.d_model if is_last else 0.0)


def attention_flops(config: ModelConfig, layer: int, tokens: int) -> float:
    """Forward FLOPs of scores and weighted sum per token: a query sees half of the row on average, or its window."""
    window = config.window(layer)
    seen = tokens / 2 if window is None else min(window, tokens / 2)
    if config.latent is not None:
        per_key = config.latent.d_nope + config.latent.d_rope + config.latent.d_value
    else:
        per_key = 2 * config.d_head
    return 2 * seen * config.n_heads * per_key


def _micro_batch(workload: Workload, layout: Layout, cluster: Cluster, pp: int) -> dict[str, float]:
    """Seconds of one micro-batch on one rank, by kind of work."""
    again = 0 if layout.checkpointing == "none" else 1
    tokens = layout.rows * workload.tokens
    seconds = dict.fromkeys(("compute", "tp", "ep", "pp"), 0.0)
    for stage in layout.stages(pp):
        flops = stage_flops(workload.config, layout, stage, workload.tokens)
        plain = 3 * flops.plain + flops.plain_again(layout.checkpointing)  # backward is twice a forward pass
        on_experts = flops.expert * tokens / (cluster.flops * cluster.expert_efficiency)
        seconds["compute"] += plain * tokens / (cluster.flops * cluster.efficiency)
        seconds["compute"] += (3 + again) * max(
            on_experts, _expert_read_seconds(workload, layout, cluster, stage)
        )
    for message in micro_batch_messages(workload, layout, pp):
        seconds[message.axis] += _seconds(message, layout, cluster)
    return seconds


def _expert_read_seconds(workload: Workload, layout: Layout, cluster: Cluster, stage: int) -> float:
    """Seconds to read a stage's experts from memory once: the lower bound if each gets few tokens."""
    local = local_config(workload.config, layout.mesh.tp, layout.mesh.etp)
    if local.moe is None:
        return 0.0
    layers = split_layers(local.n_layers, layout.n_stages)[stage]
    n_moe = sum(local.is_moe_layer(layer) for layer in layers)
    experts = local.moe.n_experts // layout.mesh.ep * 3 * local.d_model * local.moe.d_expert
    return n_moe * experts * workload.precision.block_bytes / (cluster.memory_gb_s * 1e9)


def _optimiser_seconds(workload: Workload, layout: Layout, cluster: Cluster) -> float:
    """Seconds to read and write states, gradients and weights of the rank that has most of them."""
    touched = 0.0
    for pp in range(layout.mesh.pp):
        held = rank_memory(workload, layout, pp)
        touched = max(touched, 2 * held.optimiser + held.gradients + held.weights)
    return touched / (cluster.memory_gb_s * 1e9)


def _seconds(message: Message, layout: Layout, cluster: Cluster) -> float:
    network = _network(message.axis, layout, cluster)
    n = network.n_ranks
    if message.kind == "send":
        each = message.size / (network.gb_s * 1e9) + network.latency_us * 1e-6
    elif message.kind == "all_to_all":
        each = _all_to_all_seconds(message.size, network, cluster)
    elif message.kind == "hand_out":  # n - 1 ranks' parts arrive
        each = (n - 1) * (message.size / (network.gb_s * 1e9) + network.latency_us * 1e-6)
    elif message.kind == "reduce_scatter":
        each = (n - 1) / n * message.size / (network.gb_s * 1e9) + (n - 1) * network.latency_us * 1e-6
    else:  # a ring sends the data around twice: reduce-scatter and all-gather
        each = 2 * (n - 1) / n * message.size / (network.gb_s * 1e9) + 2 * (n - 1) * network.latency_us * 1e-6
    return each * message.count


def _all_to_all_seconds(size: float, network: Network, cluster: Cluster) -> float:
    """Seconds of an all-to-all: messages within and between nodes overlap; each rank sends one to each other."""
    n, n_local = network.n_ranks, network.n_local
    outside = size * (n - n_local) / n / (cluster.inter_gb_s * 1e9)
    inside = size * (n_local - 1) / n / (cluster.intra_gb_s * 1e9)
    return max(outside, inside) + (n - 1) * network.latency_us * 1e-6


def _network(axis: str, layout: Layout, cluster: Cluster) -> Network:
    mesh = layout.mesh
    if axis in ("pp", "ends"):
        stride = mesh.tp * mesh.dp
        return cluster.network(stride, 2 if mesh.pp > 1 else 1)
    stride, n_ranks = {
        "tp": (1, mesh.tp),
        "dp": (mesh.tp, mesh.dp),
        "ep": (1 if mesh.is_folded else mesh.tp, mesh.ep),
        "edp": (mesh.ep if mesh.is_folded else mesh.tp * mesh.ep, mesh.edp),
    }[axis]
    return cluster.network(stride, n_ranks)
