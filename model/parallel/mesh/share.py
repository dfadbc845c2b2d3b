"""One rank's share of a model's shape: heads, widths, vocabulary and experts. Does not import torch."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from model.config import ModelConfig, MoEConfig


@lru_cache(maxsize=64)  # the planner calls it thousands of times
def local_config(config: ModelConfig, tp: int, etp: int | None = None) -> ModelConfig:
    """The shape with 1 / tp of the heads, widths and vocabulary, for a model and degrees that `mesh.check` accepts.

    Routed experts have 1 / etp of their width, without `etp` 1 / tp. Their number is kept, since the router chooses among
    all of them.
    """
    if tp == 1:
        return config
    moe = config.moe
    if moe is not None:
        shared = moe.d_shared // tp if moe.n_shared else None
        moe = dataclasses.replace(moe, d_expert=moe.d_expert // (etp or tp), shared_width=shared)
    return dataclasses.replace(
        config,
        vocab_size=config.vocab_size // tp,
        n_heads=config.n_heads // tp,
        n_kv_heads=(config.n_heads if config.latent is not None else config.n_kv_heads)
        // tp,  # unused with MLA
        d_ff=max(config.d_ff // tp, 1),  # unused where all layers are MoE
        moe=moe,
    )


def local_experts(config: MoEConfig, ep: int) -> MoEConfig:
    """The shape of one rank's experts: each received row has exactly one expert, chosen on its own rank."""
    return dataclasses.replace(config, n_experts=config.n_experts // ep, top_k=1, n_groups=1, top_groups=1)
