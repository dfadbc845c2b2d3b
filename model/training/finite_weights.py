"""Whether weights are numbers, asked before they are written. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.training.errors import NotFiniteWeightsError


def require_finite_weights(step: int, *parts: Mapping[str, Tensor]) -> None:
    """Raises NotFiniteWeightsError where a tensor behind update `step` holds a value that is no number. Reads all once."""
    if spoilt := not_finite(parts):
        others = f" and {len(spoilt) - 1:,} more tensors" if len(spoilt) > 1 else ""
        raise NotFiniteWeightsError(f"step {step} left values that are no numbers in {spoilt[0]}{others}")


def not_finite(parts: Iterable[Mapping[str, Tensor]]) -> list[str]:
    """The names of the tensors of fractions that hold an infinity or a NaN."""
    return [
        name
        for part in parts
        for name, tensor in part.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
