"""Bytes that one rank hands to collectives and sends in one optimiser step, by axis. Does not import torch.

These are the messages of model/parallel: `measure.py` counts the same bytes in a running job. How long they take on a
network is `costs.py`'s subject. Axes are those of the mesh, and `ends` for the tied embedding on the first and the
last stage. Routing is taken as even.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from model.config import ModelConfig
from model.parallel.mesh import split_layers
from model.parallel.share import local_config
from model.plan.activations import FP32_BYTES, INDEX_BYTES
from model.plan.layout import STREAM_BYTES, Layout, Workload
from model.plan.sizes import rank_parameters


@dataclass(frozen=True)
class Message:
    """`count` messages of `size` bytes each on an axis; `kind` says how they travel."""

    axis: str
    kind: str  # all_reduce, reduce_scatter, hand_out (of a rank's part to all others), all_to_all, send
    size: float
    count: float

    @property
    def total(self) -> float:
        return self.size * self.count


def step_traffic(workload: Workload, layout: Layout, pp: int) -> Counter[str]:
    """Bytes per axis and optimiser step of a rank at place `pp` of the pipeline axis, as model/parallel sends them.

    The few bytes of counts, losses and norms of the whole step are left out.
    """
    total: Counter[str] = Counter()
    n_micro = layout.micro_batches(workload)
    for message in micro_batch_messages(workload, layout, pp):
        total[message.axis] += int(message.total * n_micro)
    for message in gradient_messages(workload, layout, pp):
        total[message.axis] += int(message.total)
    return +total


def micro_batch_messages(workload: Workload, layout: Layout, pp: int) -> list[Message]:
    """Of forward and backward of one micro-batch through all stages of one rank, recomputation included."""
    config = local_config(workload.config, layout.mesh.tp)
    tokens = layout.rows * workload.tokens
    messages: list[Message] = []
    for stage in layout.stages(pp):
        layers = split_layers(config.n_layers, layout.n_stages)[stage]
        for layer in layers:
            messages += _layer_messages(workload, layout, config, layer, tokens)
        messages += _stage_messages(layout, config, stage, tokens)
    return messages


def gradient_messages(workload: Workload, layout: Layout, pp: int) -> list[Message]:
    """Once per step: adding up gradients, and with sharded states handing out the updated weights.

    ZeRO 2 and 3 are DeepSpeed's: gradients are reduced to their owners only, weights gathered once, or for each forward
    and backward pass.
    """
    mesh, precision = layout.mesh, workload.precision
    held = rank_parameters(workload.config, mesh, pp, layout.n_chunks)
    sizes = {
        "dp": (
            held.block * precision.gradient_bytes + held.outside * FP32_BYTES,
            held.block * precision.block_bytes + held.outside * FP32_BYTES,
        ),
        "edp": (held.expert * precision.gradient_bytes, held.expert * precision.block_bytes),
    }
    if mesh.ep == 1:
        sizes = {"dp": (sizes["dp"][0] + sizes["edp"][0], sizes["dp"][1] + sizes["edp"][1])}
    messages: list[Message] = []
    for axis, (gradients, weights) in sizes.items():
        n_ranks = mesh.dp if axis == "dp" else mesh.edp
        if n_ranks == 1 or not gradients:
            continue
        messages.append(Message(axis, "all_reduce" if layout.zero < 2 else "reduce_scatter", gradients, 1))
        if layout.zero:
            messages.append(Message(axis, "hand_out", weights / n_ranks, 2 if layout.zero == 3 else 1))
    is_end = pp in (0, mesh.pp - 1)
    if mesh.pp > 1 and is_end and workload.config.tie_embeddings:
        table = workload.config.vocab_size // mesh.tp * workload.config.d_model
        messages.append(Message("ends", "all_reduce", table * FP32_BYTES, 1))
    return messages


def _layer_messages(
    workload: Workload, layout: Layout, config: ModelConfig, layer: int, tokens: int
) -> list[Message]:
    mesh, width = layout.mesh, workload.precision.block_bytes
    is_moe = config.moe is not None and config.is_moe_layer(layer)
    messages: list[Message] = []
    repeats = 0 if layout.checkpointing == "none" else 1
    if mesh.tp > 1:
        parts = 2  # attention; feed-forward or routed experts
        if is_moe and config.moe is not None and config.moe.n_shared:
            parts += 1
        # forward sums outputs, backward sums gradients of inputs; recomputation stops before the last output
        recomputed = repeats * (parts - 1)
        if is_moe and config.moe is not None and config.moe.gate_shared:
            recomputed += repeats  # the gate multiplies the last output, and so asks for it
        if layout.checkpointing == "selective":
            recomputed -= 1  # attention's half stops before its own output too
        messages.append(Message("tp", "all_reduce", tokens * config.d_model * width, 2 * parts + recomputed))
        if is_moe and config.moe is not None:
            messages.append(Message("tp", "all_reduce", tokens * config.moe.top_k * FP32_BYTES, 1))
    if mesh.ep > 1 and is_moe and config.moe is not None:
        rows = tokens * config.moe.top_k
        messages.append(Message("ep", "all_to_all", rows * config.d_model * width, 4 + 2 * repeats))
        messages.append(Message("ep", "all_to_all", config.moe.n_experts * INDEX_BYTES, 1 + repeats))
    return messages


def _stage_messages(layout: Layout, config: ModelConfig, stage: int, tokens: int) -> list[Message]:
    is_first, is_last = stage == 0, stage == layout.n_stages - 1
    stream = tokens * config.d_model * STREAM_BYTES
    messages: list[Message] = []
    if layout.mesh.pp > 1 and not is_last:
        messages.append(Message("pp", "send", stream, 1))
    if layout.mesh.pp > 1 and not is_first:
        messages.append(Message("pp", "send", stream, 1))
    if layout.mesh.tp > 1 and is_first:
        messages.append(Message("tp", "all_reduce", stream, 1))
    if layout.mesh.tp > 1 and is_last:
        messages.append(Message("tp", "all_reduce", stream, 1))
        messages.append(Message("tp", "all_reduce", tokens * FP32_BYTES, 3))  # largest logit, target, sum
    return messages
