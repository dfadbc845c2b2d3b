"""Shared experts, given as a merged width (Qwen) or as a number of experts (DeepSeek).

Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from model.hf.config.fields import MOST_EXPERTS, Ours, Theirs, pick, put, whole
from model.hf.errors import UnsupportedModel


@dataclass(frozen=True)
class SharedWidth:
    """`field` is the width of the one shared feed-forward."""

    field: str = "shared_expert_intermediate_size"

    def read(self, theirs: Theirs, ours: Ours) -> None:
        put(ours, "moe.n_shared", 1)
        put(ours, "moe.shared_width", whole(self.field, theirs.get(self.field)))

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        theirs[self.field] = _positive("ModelConfig.moe.d_shared", pick(config, "moe.d_shared"))


@dataclass(frozen=True)
class SharedCount:
    """`field` counts shared experts, each as wide as a routed one."""

    field: str = "n_shared_experts"

    def read(self, theirs: Theirs, ours: Ours) -> None:
        put(ours, "moe.n_shared", whole(self.field, theirs.get(self.field), most=MOST_EXPERTS))

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        width = _positive("ModelConfig.moe.d_shared", pick(config, "moe.d_shared"))
        # Any other width than a multiple is caught when the fields are read back.
        theirs[self.field] = max(width // pick(config, "moe.d_expert"), 1)


def _positive(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UnsupportedModel(
            f"{name} must be a whole number above 0, not {value!r}: the family has shared experts"
        )
    return value
