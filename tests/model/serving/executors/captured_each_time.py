"""Stands in for a CUDA device's capturing, on any device."""

from __future__ import annotations

import torch

from model.serving.executors.cuda_graphs import Compute


class EachTime:
    """Stands in for capturing: the replay computes again, and is counted."""

    def __init__(self) -> None:
        self.n_captured = self.n_replayed = 0

    def __call__(self, compute: Compute) -> Compute:
        self.n_captured += 1
        compute()  # as warming up does: whatever is in the inputs

        def replay() -> torch.Tensor:
            self.n_replayed += 1
            return compute()

        return replay
