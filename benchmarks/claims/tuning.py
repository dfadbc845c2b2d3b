"""The same small learning-rate grid for every side of a comparison, decided by held-out loss on a seed of its own.

The seed that rates are chosen on is none of those that are reported: else the side with more noise would look better.
Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TUNING_SEED = 0


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best rate of a grid; `is_at_edge` says that a better one may lie outside."""

    rate: float
    is_at_edge: bool

    def text(self) -> str:
        return f"{self.rate:g}{' (edge of the grid)' if self.is_at_edge else ''}"


def best_rate(losses: Mapping[float, float]) -> Tuned:
    """The rate of the least loss; a run that diverged (not finite) is never the best.

    Raises ValueError where no run stayed finite.
    """
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        raise ValueError("every learning rate of the grid diverged: lower the grid")
    rate = min(finite, key=lambda candidate: (finite[candidate], candidate))
    return Tuned(rate, is_at_edge=len(losses) > 1 and rate in (min(losses), max(losses)))


def grid_text(rates: Sequence[float], chosen: Mapping[str, Tuned]) -> str:
    """For a row's `how`."""
    listed = ", ".join(f"{name} {tuned.text()}" for name, tuned in chosen.items())
    grid = "/".join(f"{rate:g}" for rate in rates)
    return f"learning rates {grid} tried on either side on a seed of its own, chosen: {listed}"
