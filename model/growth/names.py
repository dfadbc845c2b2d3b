"""Names of a model's tensors, from its configuration alone: nothing is allocated."""

from __future__ import annotations

from torch import Tensor

from model.config import ModelConfig
from model.layers.unfilled import unfilled
from model.transformer import Transformer


def shapes_of(config: ModelConfig) -> dict[str, Tensor]:
    """The state dict of a model with that configuration, on the meta device: names and shapes without memory."""
    with unfilled():
        return Transformer(config).state_dict()


def split(name: str) -> tuple[str, str]:
    """`layers.3.ffn.w_up` -> (`layers.3.ffn`, `w_up`)."""
    stem, _, leaf = name.rpartition(".")
    return stem, leaf
