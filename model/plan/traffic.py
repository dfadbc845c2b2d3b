"""Bytes that one rank hands to collectives and sends in one optimiser step, by axis. Does not import torch.

These are the messages of model/parallel: `measure.py` counts the same bytes in a running job. How long they take on a
network is `costs.py`'s subject. Axes are those of the mesh, and `ends` for the tied embedding on the first and the
last stage. Routing is taken as even.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from model.config import ModelConfig, MoEConfig
from model.parallel.mesh.mesh import Axis, Mesh, split_layers
from model.parallel.mesh.share import local_config
from model.plan.activations import FP32_BYTES, INDEX_BYTES, ranks_per_token
from model.plan.layout import STREAM_BYTES, Layout, Workload
from model.plan.sizes import partial_parameters, rank_parameters


@dataclass(frozen=True)
class Message:
    """`count` messages of `size` bytes each on an axis; `kind` is the collective."""

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
    """Messages of forward and backward of one micro-batch on one rank, recomputation included."""
    config = local_config(workload.config, layout.mesh.tp, layout.mesh.etp)
    tokens = layout.rows * workload.tokens
    messages: list[Message] = []
    for stage in layout.stages(pp):
        layers = split_layers(config.n_layers, layout.n_stages)[stage]
        for layer in layers:
            messages += _layer_messages(workload, layout, config, layer, tokens)
        messages += _stage_messages(layout, config, stage, tokens)
    return messages


def gradient_messages(workload: Workload, layout: Layout, pp: int) -> list[Message]:
    """Messages of a step: all-reduce of gradients, and with sharded states the all-gather of updated weights.

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
    if layout.splits_sequence:
        partial = partial_parameters(workload.config, mesh, pp, layout.n_chunks)
        size = partial.block * precision.gradient_bytes + partial.outside * FP32_BYTES
        messages.append(Message("tp", "all_reduce", size, 1))
    is_end = pp in (0, mesh.pp - 1)
    if mesh.pp > 1 and is_end and workload.config.tie_embeddings:
        table = workload.config.vocab_size // mesh.tp * workload.config.d_model
        messages.append(Message("ends", "all_reduce", table * FP32_BYTES, 1))
    return messages


def _layer_messages(
    workload: Workload, layout: Layout, config: ModelConfig, layer: int, tokens: int
) -> list[Message]:
    mesh, moe, stream = layout.mesh, config.moe, tokens * config.d_model * workload.precision.block_bytes
    if layout.splits_sequence:
        return _split_layer_messages(layout, config, layer, tokens, stream)
    if moe is None or not config.is_moe_layer(layer):
        return _sums(mesh, stream, 2, _sums_again(layout, 2))  # attention, feed-forward
    parts = 3 if moe.n_shared else 2  # attention, routed experts, shared experts
    again = _sums_again(layout, parts)
    if moe.gate_shared and layout.checkpointing != "none":
        again += 1  # the gate multiplies the last output, and so needs it
    if mesh.ep == 1:
        weights = Message("tp", "all_reduce", tokens * moe.top_k * FP32_BYTES, 1)
        return [*_sums(mesh, stream, parts, again), *([weights] if mesh.tp > 1 else [])]
    gathered_again = 1 if moe.n_shared and layout.checkpointing != "none" else 0
    return [
        *_sums(mesh, stream, parts - 1, again - gathered_again),
        *_routed_messages(layout, moe, tokens, stream, gathered_again),
    ]


def _sums_again(layout: Layout, parts: int) -> int:
    """Outputs that recomputation sums over tp again: it stops before the last one."""
    if layout.checkpointing == "none":
        return 0
    return parts - 2 if layout.checkpointing == "selective" else parts - 1  # attention's half stops early too


def _sums(mesh: Mesh, stream: float, parts: int, again: int) -> list[Message]:
    """All-reduces over tp: outputs forward, gradients of inputs backward."""
    return [Message("tp", "all_reduce", stream, 2 * parts + again)] if mesh.tp > 1 else []


def _split_layer_messages(
    layout: Layout, config: ModelConfig, layer: int, tokens: int, stream: float
) -> list[Message]:
    """Messages with a split sequence: a gather before and a scatter after both halves of a layer, each way.

    Recomputation gathers both again, and scatters attention's sum again where it computes that.
    """
    again = {"none": 0, "selective": 2, "full": 3}[layout.checkpointing]
    messages = [Message("tp", "all_to_all", stream, 8 + again)]
    if layout.mesh.ep > 1 and config.moe is not None and config.is_moe_layer(layer):
        messages += _exchanged_messages(layout, config.moe, tokens, stream)
    return messages


def _routed_messages(
    layout: Layout, moe: MoEConfig, tokens: int, stream: float, gathered_again: int
) -> list[Message]:
    """Messages of experts over ep, where tp ranks gather the outputs of the tokens that each sent."""
    messages = _exchanged_messages(layout, moe, tokens, stream)
    if layout.mesh.tp > 1:
        messages += [
            Message("tp", "all_to_all", stream, 2 + gathered_again),  # outputs; gradients of inputs
            Message("tp", "all_to_all", tokens * moe.top_k * FP32_BYTES, 1),  # and of weights
        ]
    return messages


def _exchanged_messages(layout: Layout, moe: MoEConfig, tokens: int, stream: float) -> list[Message]:
    """Messages of experts over ep, to which each tp rank sends its share of the tokens.

    Where tp ranks hold parts of the same experts they gather the rows that arrive.
    """
    mesh, per_token = layout.mesh, ranks_per_token(moe, layout.mesh.ep)
    weights, choices = tokens * moe.top_k * FP32_BYTES, tokens * moe.top_k * INDEX_BYTES
    forward = 1 if layout.checkpointing == "none" else 2  # passes; the backward pass takes the same ways back
    messages = []
    shares: dict[Axis, float] = {"ep": per_token / mesh.tp}
    if mesh.tp > 1 and not mesh.is_folded:
        shares["tp"] = per_token  # to all ranks that have a part of an expert's width
    for axis, share in shares.items():
        messages += [
            Message(axis, "all_to_all", share * stream, 2 * forward + 2),
            Message(axis, "all_to_all", share * weights, forward + 1),
            Message(axis, "all_to_all", share * choices, forward),
            Message(axis, "all_to_all", mesh.degree(axis) * INDEX_BYTES, forward),  # numbers of rows
        ]
    return messages


def _stage_messages(layout: Layout, config: ModelConfig, stage: int, tokens: int) -> list[Message]:
    is_first, is_last = stage == 0, stage == layout.n_stages - 1
    stream = tokens * config.d_model * STREAM_BYTES
    messages: list[Message] = []
    if layout.mesh.pp > 1:
        neighbours = 2 - is_first - is_last
        messages.append(Message("pp", "send", stream * layout.stream_share, neighbours))
    if layout.mesh.tp == 1:
        return messages
    # both ends: the sums of the embedding and of the head's input gradients, or a gather and a scatter for each of the two
    kind, each = ("all_to_all", 2) if layout.splits_sequence else ("all_reduce", 1)
    messages.append(Message("tp", kind, stream, each * (is_first + is_last)))
    if is_last:
        messages.append(Message("tp", "all_reduce", tokens * FP32_BYTES, 3))  # largest logit, target, sum
    return messages
