"""An executor's answers as tensors, to be compared with a model's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.serving.executors.base import Executor, Part


def logits_of(executor: Executor, parts: Sequence[Part]) -> Tensor:
    """Of one step [sum of n_logits, V]."""
    return torch.from_numpy(executor.step(parts))
