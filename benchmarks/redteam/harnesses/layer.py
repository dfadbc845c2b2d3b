"""The layer, its weights and its inputs as naive harnesses use them: published shapes and seeds, the same every time."""

from __future__ import annotations

import sys
from typing import Any

import torch

TOKENS, D_MODEL = 64, 128
CONFIG: dict[str, Any] = {"d_model": D_MODEL, "d_expert": 128, "n_experts": 16, "top_k": 2, "n_shared": 1}
WARM_UP, CALLS = 3, 40


def load_layer(tree: str) -> Any:
    """The MoE layer of the stack below `tree`, in inference mode, with seeded weights."""
    sys.path.insert(0, tree)
    from model.config import MoEConfig
    from model.layers.moe.layer import MoELayer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return MoELayer(MoEConfig(**CONFIG)).eval()


def make_input(number: int = 0) -> torch.Tensor:
    """[T, D]"""
    return torch.randn(TOKENS, D_MODEL, generator=torch.Generator().manual_seed(number + 1))
