"""Weight sharing between layers (ALBERT, arXiv:1909.11942; MobileLLM's adjacent blocks, arXiv:2402.14905).

A module is registered with its owner only; the other layers hold a plain reference to it. So parameters, state dicts,
optimisers and counts meet each weight once, and autograd adds up the gradients of all uses. Key/value caches stay per
layer: shared weights see another input at each depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, nn

from model.config import ModelConfig

SHARED_PARTS = ("attention", "ffn")


def lend(block: nn.Module, part: str, owned: nn.Module) -> None:
    """Set `block.part` to a module that another block owns, without registering it a second time."""
    object.__setattr__(block, part, owned)


def is_lent(block: nn.Module, part: str) -> bool:
    """Whether `block.part` belongs to another block."""
    return part not in dict(block.named_children())


def owner(config: ModelConfig, part: str, layer: int) -> int:
    """The layer whose weights `part` of this layer uses."""
    return config.attention_owner(layer) if part == "attention" else config.ffn_owner(layer)


def unshare(config: ModelConfig, state: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Remove sharing: configuration and state dict with a copy for each layer and the same outputs.

    For formats without sharing, and for further training with untied layers.
    """
    copies = dict(state)
    for layer in range(config.n_layers):
        for part in SHARED_PARTS:
            source = owner(config, part, layer)
            if source == layer:
                continue
            prefix = f"layers.{source}.{part}."
            for name, tensor in state.items():
                if name.startswith(prefix):
                    copies[f"layers.{layer}.{part}.{name.removeprefix(prefix)}"] = tensor.clone()
    return dataclasses.replace(config, attention_owners=(), ffn_owners=()), copies
