"""The same small learning-rate grid for every side of a comparison, decided by held-out loss on separate seeds.

The seeds that rates are chosen on are none of those that are reported: else the side with more noise would look better.
One seed is enough where sides differ by more than seeds do. A grid grows beyond the edge at which its best rate is,
by the same rule on every side: so no side is held back by where the grid happens to end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.report import MeasuringFailed

TUNING_SEED = 0
MOST_ADDED = 2  # rates beyond the first grid


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best rate of those tried, ascending; `is_at_edge` says that a better one may be outside."""

    rate: float
    tried: tuple[float, ...]

    @property
    def is_at_edge(self) -> bool:
        return len(self.tried) > 1 and self.rate in (self.tried[0], self.tried[-1])

    def text(self) -> str:
        """`0.01 of 0.004/0.01/0.025`."""
        tried = "/".join(f"{rate:g}" for rate in self.tried)
        return f"{self.rate:g} of {tried}{' (edge of the grid)' if self.is_at_edge else ''}"


def best_rate(losses: Mapping[float, float]) -> Tuned:
    """The rate of the least loss; a run that diverged (not finite) is never the best.

    Raises MeasuringFailed where no run stayed finite.
    """
    rate = _best(losses)
    if rate is None:
        raise MeasuringFailed("every learning rate of the grid diverged: lower the grid")
    return Tuned(rate, tuple(sorted(losses)))


def next_rate(losses: Mapping[float, float], n_first: int) -> float | None:
    """The rate to try beyond the edge at which the best one is, in the grid's ratio; below it where all diverged.

    None where the best is inside, where `MOST_ADDED` were added to the first `n_first`, or where one rate is no grid.
    """
    rates = sorted(losses)
    if len(rates) < 2 or len(rates) >= n_first + MOST_ADDED:
        return None
    best = _best(losses)
    if best in (None, rates[0]):
        beyond = rates[0] * rates[0] / rates[1]
    elif best == rates[-1]:
        beyond = rates[-1] * rates[-1] / rates[-2]
    else:
        return None
    return float(f"{beyond:.2g}")


def grid_text(chosen: Mapping[str, Tuned], n_seeds: int = 1) -> str:
    """Text about the grid for a row's `how`; `n_seeds` decided."""
    listed = ", ".join(f"{name} {tuned.text()}" for name, tuned in chosen.items())
    seeds = "a separate seed" if n_seeds == 1 else f"{n_seeds} separate seeds"
    return f"learning rates by one rule on every side, on {seeds}: {listed}"


def _best(losses: Mapping[float, float]) -> float | None:
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    return min(finite, key=lambda rate: (finite[rate], rate)) if finite else None
