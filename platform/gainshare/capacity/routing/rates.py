"""Rates of nodes and classes as the gateway measured them: never what a node claims.

A class has the lower median of its nodes' rates, so that a single node that is fast by answering nothing useful cannot
raise the figure that scaling and routing rely on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Max, Sum
from django.utils import timezone

from gainshare.capacity.models import NodeWindow, ServedModel

WINDOW_S = 30  # seconds of one window
RECENT = timedelta(minutes=10)  # windows that describe a node now
REMEMBERED = timedelta(days=7)  # windows that describe a class which serves nothing at the moment
BUSY_SHARE = 0.7  # windows with this share of the slots in use show what a node does when it is full
COUNTED = (
    "requests",
    "failures",
    "busy_ms",
    "prefill_tokens",
    "prefill_ms",
    "decode_tokens",
    "decode_ms",
)


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of one node; 0 where nothing was measured. Decode is that of one answer, requests that of a full node."""

    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    requests_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums over the windows of one node."""

    requests: int = 0
    failures: int = 0
    busy_ms: int = 0
    prefill_tokens: int = 0
    prefill_ms: int = 0
    decode_tokens: int = 0
    decode_ms: int = 0


def window_of(at: datetime) -> datetime:
    """The beginning of the window that `at` is in."""
    return datetime.fromtimestamp(at.timestamp() // WINDOW_S * WINDOW_S, UTC)


def rates_of(counted: Counted, slots: int) -> Rates:
    """Rates that follow from these sums, for a node with this many slots. Pure."""
    return Rates(
        prefill_tokens_per_s=_per_s(counted.prefill_tokens, counted.prefill_ms),
        decode_tokens_per_s=_per_s(counted.decode_tokens, counted.decode_ms),
        requests_per_s=slots * _per_s(counted.requests, counted.busy_ms),
    )


def class_rates(nodes: Iterable[Rates]) -> Rates:
    """Rates of a class: for each figure the lower median of the nodes that have it. Pure."""
    every = list(nodes)
    return Rates(
        _lower_median(rates.prefill_tokens_per_s for rates in every),
        _lower_median(rates.decode_tokens_per_s for rates in every),
        _lower_median(rates.requests_per_s for rates in every),
    )


def measured(model: str, device_class: str, *, now: datetime | None = None) -> Rates:
    """Rates of one node of this class with this model: of the last minutes, or of the latest that are known.

    All are 0 where nothing was measured. An answered request counts when it ends.
    """
    now = now or timezone.now()
    windows = NodeWindow.objects.filter(model=model, device_class=device_class)
    latest = windows.filter(window_at__gte=now - REMEMBERED).aggregate(at=Max("window_at"))["at"]
    if latest is None:
        return Rates()
    slots = slots_of(model)
    rows = windows.filter(window_at__gt=latest - RECENT, window_at__lte=latest).values("node", "window_at")
    each = [row for row in rows.annotate(**{name: Sum(name) for name in COUNTED})]
    by_node: dict[str, list[Mapping[str, int]]] = {}
    for row in each:
        by_node.setdefault(row["node"], []).append(row)
    return class_rates(_of_node(rows_of_node, slots) for rows_of_node in by_node.values())


def slots_of(model: str) -> int:
    """Requests that one pool node of `model` answers at the same time."""
    served = ServedModel.objects.filter(name=model).values_list("slots", flat=True).first()
    return served or int(ServedModel._meta.get_field("slots").get_default())


def _of_node(windows: list[Mapping[str, int]], slots: int) -> Rates:
    """Rates of one node; its requests a second come from its fullest windows, because batches slow answers down."""
    every = rates_of(_sum(windows), slots)
    full = [row for row in windows if row["busy_ms"] >= BUSY_SHARE * slots * WINDOW_S * 1000]
    if not full:
        return every
    return Rates(
        every.prefill_tokens_per_s, every.decode_tokens_per_s, rates_of(_sum(full), slots).requests_per_s
    )


def _sum(windows: Iterable[Mapping[str, int]]) -> Counted:
    rows = list(windows)
    return Counted(**{name: sum(row[name] for row in rows) for name in COUNTED})


def _per_s(count: int, ms: int) -> float:
    return 1000.0 * count / ms if count > 0 and ms > 0 else 0.0


def _lower_median(values: Iterable[float]) -> float:
    known = sorted(value for value in values if value > 0)
    return known[(len(known) - 1) // 2] if known else 0.0
