"""How many requests will come: the present rate, the time of day, and a bound that learns from what came too late."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from gainshare.capacity.policies.observed import Load
from gainshare.capacity.policies.samples import number

DAY_S = 86_400.0
BIN_S = 600.0
BINS = int(DAY_S / BIN_S)
WINDOWS_S = (60.0, 120.0, 300.0, 600.0)
SURPRISE = 3.0  # standard errors between two windows that show a change of the rate
LEARNED_A_DAY = 0.4  # weight of the newest day in the profile
SEASON_WEIGHT = 0.5  # of the profile's change: days differ
MOST_SEASON = 2.0


@dataclass(frozen=True, slots=True)
class Demand:
    """The present rate in requests a second, its standard error, the dispersion of arrivals, and the day's profile.

    ``profile`` has the mean rate of each ten minutes of a day, -1 where no day was seen yet.
    """

    at_s: float
    rate: float
    error: float
    dispersion: float
    profile: list[float]
    bin: int
    bin_sum: float
    bin_steps: int

    def season(self, after_s: float) -> float:
        """Factor by which the time of day changes the rate until ``after_s`` seconds from now."""
        now, then = (self.profile[int((self.at_s + shift) % DAY_S // BIN_S)] for shift in (0.0, after_s))
        if now <= 0 or then <= 0:
            return 1.0
        ratio = min(MOST_SEASON, max(1 / MOST_SEASON, then / now))
        return math.pow(ratio, SEASON_WEIGHT)

    def most(self, within_s: float) -> float:
        """The highest rate expected from now until ``within_s`` seconds from now."""
        steps = int(within_s // BIN_S) + 1
        return self.rate * max(
            1.0, *(self.season(min(within_s, step * BIN_S)) for step in range(1, steps + 1))
        )

    def state(self) -> dict[str, object]:
        return {
            "profile": self.profile,
            "bin": self.bin,
            "bin_sum": self.bin_sum,
            "bin_steps": self.bin_steps,
            "dispersion": round(self.dispersion, 4),
        }


def observe(at_s: float, load: Load, state: Mapping[str, object]) -> Demand:
    """The demand by the latest arrivals and by what earlier calls saw."""
    rate, error, dispersion = _present(load, number(state, "dispersion", 1.0))
    kept = state.get("profile")
    profile: list[float] = kept if isinstance(kept, list) and len(kept) == BINS else [-1.0] * BINS
    bin_now = int(at_s % DAY_S // BIN_S)
    before = int(number(state, "bin", bin_now))
    total, steps = number(state, "bin_sum", 0.0), int(number(state, "bin_steps", 0))
    if bin_now != before:
        if steps:
            seen = total / steps
            profile = profile.copy()
            old = profile[before]
            profile[before] = round(seen if old < 0 else old + LEARNED_A_DAY * (seen - old), 6)
        total, steps = 0.0, 0
    newest = load.arrivals[-1] / load.step_s if load.arrivals else 0.0
    return Demand(at_s, rate, error, dispersion, profile, bin_now, total + newest, steps + 1)


def _present(load: Load, dispersion: float) -> tuple[float, float, float]:
    """Rate, its standard error, and the dispersion of arrivals: of the longest window in which the rate did not change."""
    arrivals, step_s = load.arrivals, load.step_s
    if not arrivals:
        return 0.0, 0.0, dispersion
    rate = error = 0.0
    for window_s in WINDOWS_S:
        steps = max(1, round(window_s / step_s))
        if window_s != WINDOWS_S[0] and steps > len(arrivals):
            break
        seen = arrivals[-steps:]
        seconds = len(seen) * step_s
        mean = sum(seen) / seconds
        mean_error = math.sqrt(max(mean, 1 / seconds) * dispersion / seconds)
        if window_s != WINDOWS_S[0] and abs(mean - rate) > SURPRISE * error:
            break
        rate, error = mean, mean_error
    latest = arrivals[-max(2, round(600 / step_s)) :]
    mean = sum(latest) / len(latest)
    if mean > 0 and len(latest) >= 12:
        # Differences of neighbouring steps, so that a change of the rate is not counted as burstiness.
        pairs = itertools.pairwise(latest)
        variance = sum((b - a) ** 2 for a, b in pairs) / (2 * (len(latest) - 1))
        dispersion += 0.02 * (min(50.0, max(1.0, variance / mean)) - dispersion)
    return rate, error, max(1.0, dispersion)
