"""Growth that preserves the function: a dense model becomes a Mixture of Experts with the same outputs.

Sparse upcycling (Komatsuzaki et al. 2022, arXiv:2212.05055), made exact: half of each feed-forward's neurons
becomes a shared expert, the other half is copied into every routed expert. A token's normalised top-k weights
sum to one, so k equal experts add up to the dense half whatever the router chooses; training may then part them.
Knows nothing of files or tokenizers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import ConfigError, ModelConfig, MoEConfig


def grow_experts(
    config: ModelConfig, state: Mapping[str, Tensor], *, n_experts: int = 7, top_k: int = 2, seed: int = 0
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and state dict of the grown model; the router is random (seeded), all else is the parent's.

    The active feed-forward is (1 + k) / 2 of the dense one, so the child is not faster than its parent.
    Raises ConfigError where the parent is not dense or its d_ff is odd.
    """
    if config.moe is not None:
        raise ConfigError(f"{config.name} already has experts: growth starts from a dense model")
    if config.d_ff % 2:
        raise ConfigError(f"{config.name} has an odd d_ff ({config.d_ff}): it cannot be halved")
    half = config.d_ff // 2
    moe = MoEConfig(config.d_model, half, n_experts, top_k, n_shared=1, normalise_top_k=True)
    rng = torch.Generator().manual_seed(seed)
    grown: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if not stem.endswith(".ffn"):
            grown[name] = tensor
            continue
        neurons = 1 if leaf == "w_down" else 0  # the dimension that counts the feed-forward's neurons
        shared, copied = torch.split(tensor, half, dim=neurons)
        grown[f"{stem}.shared.{leaf}"] = shared.contiguous()
        grown[f"{stem}.experts.{leaf}"] = copied.expand(n_experts, -1, -1).contiguous()
        if leaf == "w_gate":
            router = torch.randn(n_experts, config.d_model, generator=rng) * config.d_model**-0.5
            grown[f"{stem}.router.weight"] = router.to(tensor.dtype)
    child = dataclasses.replace(config, name=f"{config.name}-moe", moe=moe)
    return child, grown
