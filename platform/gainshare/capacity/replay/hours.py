"""Hours of the day at which a trace's requests are billed.

Traces of an hour or less have no times of day. So each request gets an instant that is drawn from rates, seeded; what was
drawn is in the result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from random import Random

from gainshare.capacity.traces.arrivals import Rates
from gainshare.capacity.traces.requests import TraceRequest

Instant = Callable[[TraceRequest], float]
"""UTC seconds, the first at midnight, of a request's arrival."""


def own_times(request: TraceRequest) -> float:
    """The trace's own times; it begins at midnight UTC."""
    return request.at_s


def drawn_times(rates: Rates, seed: int) -> Instant:
    """Instants drawn by the rates, one for each request in their order."""
    random = Random(f"{seed}:hours")
    ends = list(accumulate(rates.rates))

    def draw(_: TraceRequest) -> float:
        due = random.random() * ends[-1]
        step = min(bisect_right(ends, due), len(ends) - 1)
        into = (due - (ends[step - 1] if step else 0.0)) / rates.rates[step]
        return (step + into) * rates.step_s

    return draw


def hour_of(at_s: float) -> int:
    """Hour of the day, 0 to 23."""
    return int(at_s // 3600) % 24
