"""Check that weights are finite before they are saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import CheckpointError
from model.training.run.errors import NotFiniteWeightsError


def require_finite_weights(step: int, *parts: Mapping[str, Tensor]) -> None:
    """Raises NotFiniteWeightsError where a tensor after update `step` holds a value that is not finite. Reads all once."""
    if spoilt := not_finite(parts):
        others = f" and {len(spoilt) - 1:,} more tensors" if len(spoilt) > 1 else ""
        raise NotFiniteWeightsError(f"step {step} left values that are not finite in {spoilt[0]}{others}")


def require_finite_checkpoint(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError where initial weights hold a value that is not finite. Reads all once."""
    if spoilt := not_finite([state]):
        others = f" and {len(spoilt) - 1:,} more of its {len(state):,} tensors" if len(spoilt) > 1 else ""
        raise CheckpointError(
            f"{folder} cannot be trained further: its {spoilt[0]}{others} holds values that are not finite, so the loss "
            "would not be finite either, at any learning rate. Fetch or export the model again, or name another folder in [model] "
            "checkpoint"
        )


def not_finite(parts: Iterable[Mapping[str, Tensor]]) -> list[str]:
    """Names of the floating-point tensors that hold an infinity or a NaN."""
    return [
        name
        for part in parts
        for name, tensor in part.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
