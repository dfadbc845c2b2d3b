"""Averages over time windows, kept in a policy's state as [[at_s, value], ...]."""

from __future__ import annotations

from collections.abc import Mapping

Samples = list[list[float]]


def added(state: Mapping[str, object], key: str, at_s: float, value: float, window_s: float) -> Samples:
    """The samples of a state with one more, without those that are older than the window."""
    kept = state.get(key)
    samples: Samples = list(kept) if isinstance(kept, list) else []
    samples.append([at_s, value])
    first = 0
    while samples[first][0] <= at_s - window_s:
        first += 1
    return samples[first:]


def mean(samples: Samples, at_s: float, window_s: float) -> float:
    """Mean of the samples within the last ``window_s`` seconds, the newest included."""
    values = [value for moment, value in samples if moment > at_s - window_s]
    return sum(values) / len(values) if values else 0.0


def number(state: Mapping[str, object], key: str, default: float) -> float:
    """A number of a state."""
    value = state.get(key, default)
    return float(value) if isinstance(value, int | float) else default
