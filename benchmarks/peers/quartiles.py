"""Figures over repeated turns: the median with the quartiles."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Median, lower and upper quartile of `n` values."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Quartiles are values that occurred. Raises ValueError where there is no value."""
        if not values:
            raise ValueError("quartiles need at least one value")
        ordered = sorted(values)
        quarter = len(ordered) // 4
        return cls(statistics.median(ordered), ordered[quarter], ordered[-1 - quarter], len(ordered))

    def text(self, unit: str = "") -> str:
        """`412 tok/s (405 to 418, 5 turns)`."""
        shown = f"{_short(self.median)}{unit and ' ' + unit}"
        if self.n == 1:
            return f"{shown} (one turn)"
        return f"{shown} ({_short(self.low)} to {_short(self.high)}, {self.n} turns)"


def ratios(of: Sequence[float], to: Sequence[float]) -> Quartiles:
    """Quartiles of the ratios of paired values, turn by turn. Raises ValueError for unequal lengths and for a zero below the line."""
    if len(of) != len(to):
        raise ValueError(f"{len(of)} values cannot be paired with {len(to)}")
    if not all(to):
        raise ValueError("a ratio to zero has no value")
    return Quartiles.of([a / b for a, b in zip(of, to, strict=True)])


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
