"""A figure over several seeds: mean and range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, least and greatest of `n` values."""

    mean: float
    low: float
    high: float
    n: int
    error: float | None = None  # standard error of the mean; None of one value

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError where there is no value."""
        if not values:
            raise ValueError("a spread needs at least one value")
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        return cls(sum(values) / len(values), min(values), max(values), len(values), error)

    def text(self, digits: int = 2, unit: str = "", *, of: str = "seeds") -> str:
        """`-35.2 % (-37.1..-33.0 over 3 seeds)`; with one value, that it is one."""
        shown = f"{self.mean:.{digits}f}{unit and ' ' + unit}"
        if self.n == 1:
            return f"{shown} (no spread: one of the {of} alone)"
        return f"{shown} ({self.low:.{digits}f}..{self.high:.{digits}f} over {self.n} {of})"
