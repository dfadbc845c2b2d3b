"""Rates of nodes and classes as the gateway measured them: never what a node claims.

A class has the lower median of its nodes' rates, so that a single node that is fast by answering nothing useful cannot
raise the figure that scaling and routing rely on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta

from django.db.models import Max
from django.utils import timezone

from gainshare.capacity.models import NodeWindow, ServedModel

WINDOW_S = 30  # seconds of one window
RECENT = timedelta(minutes=10)  # windows that describe a class now
NODE_RECENT = timedelta(minutes=2)  # windows that describe a node now: one that was slow is tried again
REMEMBERED = timedelta(days=7)  # windows that describe a class which serves nothing at the moment
BUSY_SHARE = 0.7  # windows with this share of the slots in use show what a node does when it is full


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of one node; 0 where nothing was measured. Decode is that of one answer, requests that of a full node.

    ``alone_tokens_per_s`` is decode where one request was answered at a time, ``full_tokens_per_s`` on a full node.
    """

    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    requests_per_s: float = 0.0
    alone_tokens_per_s: float = 0.0
    full_tokens_per_s: float = 0.0


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


COUNTED = tuple(part.name for part in fields(Counted))  # as the columns of NodeWindow


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
    names = (part.name for part in fields(Rates))
    return Rates(*(_lower_median(getattr(rates, name) for rates in every) for name in names))


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
    recent = windows.filter(window_at__gt=latest - RECENT, window_at__lte=latest)
    by_node: dict[str, list[Counted]] = {}
    for node, *figures in recent.values_list("node", *COUNTED):
        by_node.setdefault(node, []).append(Counted(*figures))
    return class_rates(_of_node(rows_of_node, slots) for rows_of_node in by_node.values())


def node_sums(now: datetime) -> dict[tuple[str, str, str], Counted]:
    """Sums over the last minutes by node, model and class."""
    windows = NodeWindow.objects.filter(window_at__gte=now - NODE_RECENT)
    rows = windows.values_list("node", "model", "device_class", *COUNTED)
    sums: dict[tuple[str, str, str], Counted] = {}
    for node, model, kind, *figures in rows:
        sums[node, model, kind] = total([sums.get((node, model, kind), Counted()), Counted(*figures)])
    return sums


def forget_old(*, now: datetime) -> int:
    """Drop windows that describe nothing any more; return their number. For beat."""
    return NodeWindow.objects.filter(window_at__lt=now - 2 * REMEMBERED).delete()[0]


def slots_of(model: str) -> int:
    """Requests that one pool node of `model` answers at the same time."""
    served = ServedModel.objects.filter(name=model).values_list("slots", flat=True).first()
    return served or int(ServedModel._meta.get_field("slots").get_default())


def _of_node(windows: list[Counted], slots: int) -> Rates:
    """Rates of one node; its requests a second come from its fullest windows, because batches slow answers down."""
    every = rates_of(total(windows), slots)
    full = [window for window in windows if window.busy_ms >= BUSY_SHARE * slots * WINDOW_S * 1000]
    alone = [window for window in windows if window.busy_ms <= WINDOW_S * 1000]
    return replace(
        every,
        requests_per_s=rates_of(total(full), slots).requests_per_s if full else every.requests_per_s,
        alone_tokens_per_s=_median_decode(alone),
        full_tokens_per_s=_median_decode(full),
    )


def _median_decode(windows: Iterable[Counted]) -> float:
    """Of the windows, so that answers which waited while a long prompt was read do not stand for all."""
    return _lower_median(_per_s(window.decode_tokens, window.decode_ms) for window in windows)


def total(windows: Iterable[Counted]) -> Counted:
    """Sums over all windows. Pure."""
    rows = list(windows)
    return Counted(*(sum(getattr(row, name) for row in rows) for name in COUNTED))


def _per_s(count: int, ms: int) -> float:
    return 1000.0 * count / ms if count > 0 and ms > 0 else 0.0


def _lower_median(values: Iterable[float]) -> float:
    known = sorted(value for value in values if value > 0)
    return known[(len(known) - 1) // 2] if known else 0.0
