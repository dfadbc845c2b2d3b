"""Bytes that a pipeline stage keeps for the backward pass of one micro-batch. Does not import torch.

Each entry is a tensor that autograd saves in model/layers and model/parallel, in elements per token; `measure.py`
measures what is alive after a forward pass. T tokens of a micro-batch, D stream, F feed-forward width, H heads of C,
G key/value heads, E experts, K chosen, V vocabulary; all widths are one rank's. With a split sequence the stream and its
norms are kept of a rank's own tokens, all else of the gathered ones. Kernels that save less than stock operations make
the sums an upper bound.
"""

from __future__ import annotations

import math

from model.config import LatentConfig, ModelConfig, MoEConfig
from model.parallel.mesh.mesh import split_layers
from model.parallel.mesh.share import local_config
from model.plan.layout import STREAM_BYTES, Layout, Workload

INDEX_BYTES = 8
FP32_BYTES = 4


def stage_activations(workload: Workload, layout: Layout, stage: int) -> float:
    """Bytes of one micro-batch in flight on one rank's share of a stage, with its input, and its output if it is kept."""
    config = local_config(workload.config, layout.mesh.tp, layout.mesh.etp)
    tokens = layout.rows * workload.tokens
    width = workload.precision.block_bytes
    layers = split_layers(config.n_layers, layout.n_stages)[stage]
    per_token = sum(_layer(config, layer, width, layout) for layer in layers)
    if stage == 0:
        per_token += INDEX_BYTES + (1 if layout.mesh.tp > 1 else 0)  # ids; mask of this rank's ids
    if stage == layout.n_stages - 1:
        per_token += head_saved(config, layout.stream_share)
    elif layout.keeps_outputs:
        per_token += _stream(config, layout)
    return tokens * per_token


def working_set(workload: Workload, layout: Layout, stage: int) -> float:
    """Temporary bytes of one micro-batch: a recomputed layer or the head's logits, and new gradients.

    A parameter's gradient of this micro-batch exists next to the accumulated one until it is added to it.
    """
    config = local_config(workload.config, layout.mesh.tp, layout.mesh.etp)
    tokens = layout.rows * workload.tokens
    width = workload.precision.block_bytes
    working = max(
        tokens * _in_backward(config, layer, width, layout)
        + width * _gradients_at_once(config, layer, layout)
        for layer in split_layers(config.n_layers, layout.n_stages)[stage]
    )
    if layout.mesh.pp > 1:
        working += 2 * tokens * _stream(config, layout)  # received and sent gradients
    table = STREAM_BYTES * config.vocab_size * config.d_model
    if stage == layout.n_stages - 1:
        # the head's part is freed before the layers' backward pass
        working -= tokens * head_saved(config, layout.stream_share)
        working = max(working, 2 * FP32_BYTES * tokens * config.vocab_size + table)
    return max(working, table) if stage == 0 else working


def largest_parameter(config: ModelConfig, layer: int, layout: Layout) -> int:
    """Elements of the largest weight of a layer; `config` is one rank's, whose experts are spread over ep."""
    attention = config.d_model * config.n_heads * config.d_head
    if config.latent is not None:
        latent = config.latent
        into_heads = config.n_heads * (latent.d_nope + latent.d_rope)
        attention = max(
            config.n_heads * (latent.d_nope + latent.d_value) * latent.kv_rank,
            into_heads * (latent.q_rank or config.d_model),
            config.n_heads * latent.d_value * config.d_model,
        )
    if config.moe is None or not config.is_moe_layer(layer):
        return max(attention, config.d_model * config.d_ff)
    routed = _expert_stack(config.moe, layout)
    return max(attention, routed, config.d_model * config.moe.d_shared)


def _in_backward(config: ModelConfig, layer: int, width: int, layout: Layout) -> float:
    """Bytes per token of a layer's recomputed activations and of the gradients of its activations.

    These, and what need not be recomputed, are fitted to peaks of small models (`check.py`), not derived.
    """
    gradients = 0.3 * saved_plainly(config, layer, FP32_BYTES, layout)  # in bf16 some are fp32 too
    if layout.mesh.tp > 1:
        gradients += STREAM_BYTES * config.d_model  # the sum over tp in progress
    if layout.mesh.ep > 1 and config.moe is not None and config.is_moe_layer(layer):
        mesh = layout.mesh
        rows = ranks_per_token(config.moe, mesh.ep) * config.d_model
        gathered = rows / mesh.tp if mesh.is_folded else rows
        gradients += (2 * width + FP32_BYTES) * gathered  # sent and received ones, and their sums
        if mesh.tp > 1 and not mesh.is_folded:
            gradients += 2 * width * rows / mesh.tp  # over ep; those above are over tp
    if layout.checkpointing == "none":
        return gradients
    attention, ffn = halves(config, layer, width, layout)
    again = attention + ffn
    if layout.checkpointing == "selective":  # one half after the other
        again = max(attention - _attention_products(config, width), ffn)
    return gradients + again - 3 * _stream(config, layout)


def _gradients_at_once(config: ModelConfig, layer: int, layout: Layout) -> int:
    """Elements of a layer's gradients that exist before the first of them is accumulated."""
    largest = largest_parameter(config, layer, layout)
    if config.moe is None or not config.is_moe_layer(layer) or not layout.has_kernels:
        return largest
    return max(
        largest, 3 * _expert_stack(config.moe, layout)
    )  # our kernels return gate's, up's and down's together


def _expert_stack(moe: MoEConfig, layout: Layout) -> int:
    return moe.n_experts // layout.mesh.ep * moe.d_model * moe.d_expert


def head_saved(config: ModelConfig, stream_share: float = 1.0) -> float:
    """Last norm, head and loss, per token: the stream, its norm twice, the probabilities and the target."""
    return stream_share * _norm(config, STREAM_BYTES) + STREAM_BYTES * config.d_model + _loss(config)


def _stream(config: ModelConfig, layout: Layout) -> float:
    """A rank's part of the residual stream."""
    return layout.stream_share * STREAM_BYTES * config.d_model


def _loss(config: ModelConfig) -> float:
    return FP32_BYTES * config.vocab_size + INDEX_BYTES + 2


def _layer(config: ModelConfig, layer: int, width: int, layout: Layout) -> float:
    stream = _stream(config, layout)
    if layout.checkpointing == "full":
        return stream
    if layout.checkpointing == "selective":
        return 2 * stream + _attention_products(config, width)
    return saved_plainly(config, layer, width, layout)


def saved_plainly(config: ModelConfig, layer: int, width: int, layout: Layout) -> float:
    """Bytes per token of one layer without checkpointing; `width` are bytes per element of a block."""
    return sum(halves(config, layer, width, layout))


def halves(config: ModelConfig, layer: int, width: int, layout: Layout) -> tuple[float, float]:
    """As `saved_plainly`, of attention and of the feed-forward, each with its norm."""
    norm = layout.stream_share * _norm(config, width)
    attention = norm + _attention(config, width)
    ffn = norm + width * config.d_model
    if config.moe is not None and config.is_moe_layer(layer):
        return attention, ffn + _moe(config.moe, width, layout)
    return attention, ffn + 4 * width * config.d_ff


def _norm(config: ModelConfig, width: int) -> float:
    """Bytes of a norm: the stream, its scale, and the scaled stream; the output counts for its user."""
    return (STREAM_BYTES + width) * config.d_model + FP32_BYTES


def _attention(config: ModelConfig, width: int) -> float:
    normed = width * config.d_model
    if config.latent is not None:
        return normed + _latent(config, config.latent, width)
    q, kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    saved: float = (
        width * (q + 2 * kv) + width * q + FP32_BYTES * config.n_heads
    )  # q, k, v, output, log-sum-exp
    if config.qk_norm != "none":
        heads = config.n_heads + config.n_kv_heads
        in_fp32 = FP32_BYTES if width < FP32_BYTES else 0  # norms compute in fp32: bf16 heads are copied
        saved += (q + kv) * (width + (in_fp32 or width)) + FP32_BYTES * heads
    return normed + saved


def _latent(config: ModelConfig, latent: LatentConfig, width: int) -> float:
    d_query = latent.d_nope + latent.d_rope
    padded = config.n_heads * max(d_query, latent.d_value)
    saved: float = 4 * width * padded + FP32_BYTES * config.n_heads  # padded q, k, v and output
    saved += width * config.n_heads * latent.d_value if latent.d_value < d_query else 0  # w_o's input
    saved += width * 2 * latent.kv_rank + _normed_in_fp32(latent.kv_rank, width)
    if latent.q_rank is not None:
        saved += width * 2 * latent.q_rank + _normed_in_fp32(latent.q_rank, width)
    return saved


def _normed_in_fp32(elements: int, width: int) -> float:
    """Bytes of a norm in addition to its input and output: an fp32 copy of the input if it is narrower, and the scale."""
    return (FP32_BYTES * elements if width < FP32_BYTES else 0) + FP32_BYTES


def _attention_products(config: ModelConfig, width: int) -> float:
    """Elements that selective checkpointing keeps: outputs of attention's products but the last, and of its kernel."""
    if config.latent is not None:
        latent = config.latent
        d_query, d_kv = latent.d_nope + latent.d_rope, latent.d_nope + latent.d_value
        products = config.n_heads * (d_query + d_kv) + latent.kv_rank + latent.d_rope
        products += latent.q_rank or 0
        kernel = config.n_heads * max(d_query, latent.d_value)
    else:
        q, kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
        products, kernel = q + 2 * kv, q
    return width * (products + kernel) + FP32_BYTES * config.n_heads


def _moe(moe: MoEConfig, width: int, layout: Layout) -> float:
    k = moe.top_k
    router = FP32_BYTES * moe.n_experts + (INDEX_BYTES + 2 * FP32_BYTES) * k  # scores, choice, weights
    router += FP32_BYTES * moe.d_model if width < FP32_BYTES else 0  # its fp32 input
    if moe.normalise_top_k:
        router += FP32_BYTES
    shared = 4 * width * moe.d_shared
    if moe.gate_shared:
        shared += width * (moe.d_model + 1)
    return router + routed_rows(moe, width, layout) + shared


def routed_rows(moe: MoEConfig, width: int, layout: Layout) -> float:
    """Bytes per token that the routed experts' rows keep; part of `halves`' second value."""
    row = width * (2 * moe.d_model + 4 * moe.d_expert) + 2 * INDEX_BYTES  # x, y; gate, up, silu, product
    if layout.mesh.ep == 1:
        return moe.top_k * row
    row += 2 * INDEX_BYTES + 2 * FP32_BYTES  # a pair's index among the received rows, its weight and a one
    mesh = layout.mesh
    left = ranks_per_token(moe, mesh.ep) / mesh.tp  # rows that this rank sends
    return moe.top_k * row / (mesh.tp if mesh.is_folded else 1) + left * INDEX_BYTES


def ranks_per_token(moe: MoEConfig, ep: int) -> float:
    """Expected number of `ep` ranks with an expert that a token chose, if all choices are equally likely."""
    n_elsewhere = moe.n_experts - moe.n_experts // ep
    return ep * (1 - math.comb(n_elsewhere, moe.top_k) / math.comb(moe.n_experts, moe.top_k))
