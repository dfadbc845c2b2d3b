"""Work of each part of a step: operations, bytes and messages of data path, attention, dense products and experts.

Attention's projections cost as much as dense products. A part keeps its weights, and in training gradients, states of
AdamW and activations without checkpointing, in serving the cache of keys and values. Counted from a configuration.
Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.parallel.mesh.mesh import Mesh
from model.parallel.placement.device_model import DeviceModel, Operation
from model.plan.activations import halves, head_saved, routed_rows
from model.plan.costs import attention_flops
from model.plan.layout import PRECISIONS, Layout

PRECISION = {"float32": PRECISIONS["fp32"], "bfloat16": PRECISIONS["bf16"]}


@dataclass(frozen=True)
class Work:
    """Work of a part in one step: FLOPs (tokens for the data path), the size that rates depend on, memory.

    `product_flops` are those of plain products within the part, which run at the rate of dense ones.
    """

    flops: float
    size: float
    weight_bytes: float
    product_flops: float = 0.0
    state_bytes: float = 0.0  # gradients and the optimiser's, of all weights
    kept_bytes: float = 0.0  # activations of the step, or the cache

    @property
    def held_bytes(self) -> float:
        return self.weight_bytes + self.state_bytes + self.kept_bytes

    def operations(self, part: Operation) -> tuple[Operation, ...]:
        """Operations whose rates it needs."""
        own: tuple[Operation, ...] = (part,) if self.flops else ()
        return (*own, "dense") if self.product_flops else own

    def seconds(self, part: Operation, device: DeviceModel) -> float:
        return device.seconds(part, self.flops, self.size) + device.seconds(
            "dense", self.product_flops, self.size
        )


def work_of(
    config: ModelConfig, tokens: int, *, dtype: str, is_training: bool = True, cache_bytes: float = 0.0
) -> dict[Operation, Work]:
    """Work of one step over `tokens` tokens in one sequence; training counts as three forward passes with all activations.

    `cache_bytes` are those of serving's keys and values, if they are more than of these tokens.
    """
    passes, precision = (3 if is_training else 1), PRECISION[dtype]
    width = precision.block_bytes
    state = (precision.gradient_bytes + precision.state_bytes) if is_training else 0
    moe, n_moe = config.moe, config.n_moe_layers
    scores = sum(attention_flops(config, layer, tokens) for layer in range(config.n_layers))
    projections = config.n_layers * config.attention_parameters
    experts = 0 if moe is None else n_moe * 3 * config.d_model * moe.d_expert
    routed = 0 if moe is None else experts * moe.top_k
    outside_routed = config.active_parameters - projections - routed
    all_routed = 0 if moe is None else experts * moe.n_experts
    rows_per_expert = 1.0 if moe is None else max(tokens * moe.top_k / moe.n_experts, 1.0)
    kept = _activations(config, tokens, width) if is_training else (0.0, 0.0, 0.0)
    cache = 0.0 if is_training else max(cache_bytes, tokens * width * _cached_per_token(config))
    return {
        "data": Work(tokens, tokens, 0),
        "attention": Work(
            passes * tokens * scores,
            tokens,
            width * projections,
            product_flops=passes * tokens * 2 * projections,
            state_bytes=state * projections,
            kept_bytes=kept[0] + cache,
        ),
        "dense": Work(
            passes * tokens * 2 * outside_routed,
            tokens,
            width * outside_routed,
            state_bytes=state * outside_routed,
            kept_bytes=kept[1],
        ),
        "experts": Work(
            passes * tokens * 2 * routed,
            rows_per_expert,
            width * all_routed,
            state_bytes=state * all_routed,
            kept_bytes=kept[2],
        ),
    }


def _activations(config: ModelConfig, tokens: int, width: int) -> tuple[float, float, float]:
    """Bytes kept for the backward pass by attention, dense parts (the head among them) and routed experts."""
    layout = Layout(Mesh(), 1, "none")
    attention, dense, routed = 0.0, head_saved(config), 0.0
    for layer in range(config.n_layers):
        attending, feeding = halves(config, layer, width, layout)
        rows = 0.0
        if config.moe is not None and config.is_moe_layer(layer):
            rows = routed_rows(config.moe, width, layout)
        attention, dense, routed = attention + attending, dense + feeding - rows, routed + rows
    return tokens * attention, tokens * dense, tokens * routed


def _cached_per_token(config: ModelConfig) -> int:
    """Elements of keys and values, or of MLA's latents, that serving caches for one token."""
    if config.latent is not None:
        return config.n_layers * (config.latent.kv_rank + config.latent.d_rope)
    return config.n_layers * 2 * config.n_kv_heads * config.d_head
