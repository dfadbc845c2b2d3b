"""The order in which waiting runs get a runner: fair between people. Pure; knows no database and no clock.

The next run is the oldest one of the person who has had the least: runs that are being judged now, or were
within the recent past. Each run placed in the order counts at once, so people take turns.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queued run. ``person`` is None for the platform's own runs (A/A), which wait behind everybody."""

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


def eta_s(*, position: int, typical_run_s: float | None, runners: int) -> int | None:
    """Seconds until the run at ``position`` (0 is next) starts; None when nothing is known to go by."""
    if typical_run_s is None or runners < 1:
        return None
    return round((position + 1) * typical_run_s / runners) if position >= 0 else None
