"""Times of arrival drawn from rates that change by steps. Seeded and pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests per second by steps: ``rates[i]`` holds from ``i * step_s`` on for ``step_s`` seconds."""

    step_s: float
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step_s) and self.step_s > 0) or not self.rates:
            raise ValueError("rates need steps of a positive length")
        if any(not math.isfinite(rate) or rate < 0 for rate in self.rates) or not any(self.rates):
            raise ValueError("rates must be finite and not negative, and one of them positive")

    @property
    def duration_s(self) -> float:
        return self.step_s * len(self.rates)

    @property
    def requests(self) -> float:
        """Expected number of requests."""
        return math.fsum(self.rates) * self.step_s

    @property
    def mean_to_peak(self) -> float:
        return math.fsum(self.rates) / len(self.rates) / max(self.rates)

    def scaled(self, requests: float) -> Rates:
        """The same shape with that expected number of requests."""
        factor = requests / self.requests
        return Rates(self.step_s, tuple(rate * factor for rate in self.rates))

    def part(self, first: int, steps: int) -> Rates:
        """``steps`` steps from step ``first`` on."""
        return Rates(self.step_s, self.rates[first : first + steps])


def arrivals(rates: Rates, *, random: Random, cv: float = 1.0) -> Iterator[float]:
    """Seconds of each arrival, in order.

    A renewal process of rate 1, mapped through the integral of the rates: exponential gaps (Poisson arrivals) for a
    coefficient of variation ``cv`` of 1, gamma gaps otherwise; 2 is bursty.
    """
    if not (math.isfinite(cv) and 0.1 <= cv <= 10):
        raise ValueError("the coefficient of variation must be from 0.1 to 10")
    shape = 1 / cv**2
    due = _gap(random, shape)
    passed = 0.0
    for step, rate in enumerate(rates.rates):
        expected = rate * rates.step_s
        while due < passed + expected:
            yield step * rates.step_s + (due - passed) / rate
            due += _gap(random, shape)
        passed += expected


def _gap(random: Random, shape: float) -> float:
    if shape == 1:
        return -math.log(1 - random.random())
    return random.gammavariate(shape, 1 / shape)


def hours_by_rate(rates: Rates, hours: int = 24) -> Sequence[float]:
    """Share of the requests in each hour of the day, the first step at midnight UTC."""
    sums = [0.0] * hours
    for step, rate in enumerate(rates.rates):
        sums[int(step * rates.step_s // 3600) % hours] += rate
    total = math.fsum(sums)
    return [one / total for one in sums]
