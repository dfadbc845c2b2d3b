"""Fair order in which waiting runs get a runner. Pure functions.

The next run is the oldest run of the person with the fewest runs now or in the recent past. Each run that is
placed in the order counts at once, so people take turns.
"""

import heapq
import math
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queued run. ``person`` is None for the platform's own A/A runs, which come after all others."""

    run_id: UUID
    person: int | None
    queued_at: datetime


def fair_order(waiting: Sequence[Waiting], load: Mapping[int | None, int]) -> list[UUID]:
    """All waiting runs in the order in which they would be started.

    ``load`` counts each person's recent runs. Ties go to the older run, then to the smaller id.
    """
    lines: dict[int | None, deque[Waiting]] = defaultdict(deque)
    for run in sorted(waiting, key=lambda run: (run.queued_at, run.run_id)):
        lines[run.person].append(run)
    had = Counter(dict(load))
    order: list[UUID] = []
    while lines:
        person = min(
            lines, key=lambda who: (who is None, had[who], lines[who][0].queued_at, lines[who][0].run_id)
        )
        order.append(lines[person].popleft().run_id)
        had[person] += 1
        if not lines[person]:
            del lines[person]
    return order


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated start and end of a run, in seconds from now; None if unknown."""

    starts_in_s: int | None
    ends_in_s: int | None


UNKNOWN = Estimate(None, None)


def estimate(
    *,
    ahead_s: Sequence[float | None],
    own_s: float | None,
    busy_s: Sequence[float | None],
    idle: int,
) -> Estimate:
    """Simulate the queue: each runner takes the next run as soon as it is free.

    ``ahead_s`` is how long each run before ours takes, in order, ``busy_s`` what the running ones still need. A
    runner whose run no one can tell the end of is not counted on.
    """
    free = [0.0] * idle + [math.inf if left is None else max(left, 0.0) for left in busy_s]
    if not free or any(span is None for span in ahead_s):
        return UNKNOWN
    heapq.heapify(free)
    for span in ahead_s:
        heapq.heapreplace(free, free[0] + (span or 0.0))
    starts = free[0]
    if math.isinf(starts):
        return UNKNOWN
    return Estimate(round(starts), None if own_s is None else round(starts + own_s))
