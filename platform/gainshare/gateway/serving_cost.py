"""What serving cost beside what it earned: nodes' cost, tokens and charges, by day and model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Count, Sum
from django.db.models.functions import TruncDate

from gainshare.capacity.scaling.costs import DAY, cost_by_day, day_start, node_times
from gainshare.gateway.models import UsageRecord

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class DayOfServing:
    """One model on one day, UTC. ``cost`` is that of its nodes by class, ``revenue`` what requests of that day paid."""

    day: date
    model: str
    cost_by_class: dict[str, int]
    requests: int = 0
    tokens: int = 0
    revenue_microcredits: int = 0

    @property
    def cost_microcredits(self) -> int:
        return sum(self.cost_by_class.values())

    @property
    def cost_per_million_tokens(self) -> int | None:
        """Micro-credits, rounded down; None on a day without tokens."""
        return self.cost_microcredits * MILLION // self.tokens if self.tokens else None

    @property
    def revenue_per_million_tokens(self) -> int | None:
        return self.revenue_microcredits * MILLION // self.tokens if self.tokens else None

    @property
    def margin_microcredits(self) -> int:
        """Revenue less cost."""
        return self.revenue_microcredits - self.cost_microcredits


def serving_days(*, days: int, now: datetime) -> list[DayOfServing]:
    """The latest ``days`` days up to now, the newest first, then by model; days on which nothing happened are left out.

    A request belongs to the day on which it was admitted. Nodes that `GAINSHARE_MODEL_NODES` names have no known cost.
    """
    start = day_start(now) - (days - 1) * DAY
    costs: dict[tuple[date, str], dict[str, int]] = defaultdict(dict)
    held = node_times(start=start, end=now)
    for (day, model, device_class), cost in cost_by_day(held, start=start, end=now).items():
        costs[day, model][device_class] = cost
    used = _usage(start, now)
    nothing = (0, 0, 0)
    rows = [
        DayOfServing(
            day, model, dict(sorted(costs.get((day, model), {}).items())), *used.get((day, model), nothing)
        )
        for day, model in costs.keys() | used.keys()
    ]
    return sorted(rows, key=lambda row: (-row.day.toordinal(), row.model))


def _usage(start: datetime, now: datetime) -> dict[tuple[date, str], tuple[int, int, int]]:
    """Requests, tokens and charges by day and model."""
    records = UsageRecord.objects.filter(created_at__gte=start, created_at__lt=now + timedelta(seconds=1))
    rows = (
        records.annotate(day=TruncDate("created_at"))
        .values("day", "model")
        .order_by()
        .annotate(
            requests=Count("pk"),
            prompt=Sum("prompt_tokens"),
            completion=Sum("completion_tokens"),
            charged=Sum("charged_microcredits"),
        )
    )
    return {
        (row["day"], row["model"]): (row["requests"], row["prompt"] + row["completion"], row["charged"])
        for row in rows
    }
