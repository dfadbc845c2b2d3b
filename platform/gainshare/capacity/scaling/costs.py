"""What nodes cost: the time that each held its device, times the price of its class when it was started.

Amounts are micro-credits. Each node's cost of a day is rounded down on its own, so days add up to at most a
micro-credit a node and day less than the exact sum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db.models import Q

from gainshare.capacity.models import LIVE, Node, NodeState
from gainshare.capacity.scaling.budget import STOP_S

HOUR_US = 3_600_000_000
DAY = timedelta(days=1)
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NodeTime:
    """When a node held its device (``until`` None: it still does), at which price a device-hour."""

    model: str
    device_class: str
    price: int
    since: datetime
    until: datetime | None


def cost_of(held: NodeTime, *, start: datetime, end: datetime) -> int:
    """Micro-credits of the part between ``start`` and ``end``."""
    since, until = max(held.since, start), min(held.until or end, end)
    microseconds = max(until - since, timedelta()) // timedelta(microseconds=1)
    return held.price * microseconds // HOUR_US


def day_start(moment: datetime) -> datetime:
    """Midnight, UTC, at the beginning of the moment's day."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def node_times(*, start: datetime, end: datetime, model: str | None = None) -> list[NodeTime]:
    """All nodes that held a device at some time between ``start`` and ``end``.

    While a tree takes over from another one, two nodes share a device. It costs once: the second holds it from the end
    of the first.
    """
    nodes = Node.objects.filter(Q(ended_at=None) | Q(ended_at__gt=start), created_at__lt=end)
    if model is not None:
        nodes = nodes.filter(model=model)
    held: list[NodeTime] = []
    free_at: dict[tuple[UUID, int], datetime] = {}
    for node in nodes.select_related("host__device_class").order_by("created_at"):
        device = node.host_id, node.device
        since = max(node.created_at, free_at.get(device, node.created_at))
        if since < (node.ended_at or end):
            price = node.price_microcredits_per_device_hour
            held.append(NodeTime(node.model, node.host.device_class.name, price, since, node.ended_at))
        free_at[device] = max(since, node.ended_at or NEVER)
    return held


def spent_today(model: str, now: datetime) -> int:
    """Micro-credits that the model's nodes have cost since midnight, UTC."""
    start = day_start(now)
    return sum(cost_of(held, start=start, end=now) for held in node_times(start=start, end=now, model=model))


def ending_cost(model: str, now: datetime) -> int:
    """Micro-credits set aside for the model's nodes that drain or hang, which count in no fleet.

    Each costs for STOP_S more, at most until midnight, at the price of its start. One whose device also has a node that
    counts costs nothing, because the device costs once.
    """
    ends = min(now + timedelta(seconds=STOP_S), day_start(now) + DAY)
    live = list(Node.objects.filter(model=model, state__in=LIVE))
    ending = [node for node in live if node.state == NodeState.DRAINING or node.hung_at is not None]
    counted = {(node.host_id, node.device) for node in live if node not in ending}
    prices: dict[tuple[UUID, int], int] = {}
    for node in ending:
        device = node.host_id, node.device
        if device not in counted:
            prices[device] = max(prices.get(device, 0), node.price_microcredits_per_device_hour)
    microseconds = (ends - now) // timedelta(microseconds=1)
    return sum(-(-price * microseconds // HOUR_US) for price in prices.values())  # each rounded up


def cost_by_day(
    held: Iterable[NodeTime], *, start: datetime, end: datetime
) -> dict[tuple[date, str, str], int]:
    """Cost by (day, model, class) between ``start``, a midnight, and ``end``; without entries that cost nothing."""
    costs: dict[tuple[date, str, str], int] = defaultdict(int)
    for one in held:
        day = max(day_start(one.since), start)
        last = min(one.until or end, end)
        while day < last:
            costs[day.date(), one.model, one.device_class] += cost_of(one, start=day, end=min(day + DAY, end))
            day += DAY
    return {key: cost for key, cost in costs.items() if cost}
