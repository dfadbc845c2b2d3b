"""What the deployments of a model save, and the tree that prices rest on, by the one rule of `benchmarks.sharing.savings`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone

from benchmarks.sharing import savings
from benchmarks.sharing.savings import PRICED_LINES, Placed, Served, placed
from gainshare.capacity.models import HAS_SERVED, Deployment, DeploymentState

NEVER: Mapping[UUID, datetime] = {}


def best_tree(model: str) -> str:
    """The tree against which the next canary of ``model`` has to be cheaper for a price to fall."""
    return savings.best_tree(history_of(model), timezone.now())


def history_of(model: str, reversed_at: Mapping[UUID, datetime] = NEVER) -> list[Placed]:
    """Every deployment of the model that served, with what it saves. Those that were taken back no longer count.

    ``reversed_at`` has the deployments whose gains were all reversed, and when the last one was.
    """
    served = Deployment.objects.filter(model=model, state__in=HAS_SERVED, serving_at__isnull=False)
    return history(list(served.select_related("before")), reversed_at)


def history(rows: Iterable[Deployment], reversed_at: Mapping[UUID, datetime] = NEVER) -> list[Placed]:
    """The same from rows. Pure."""
    known = list(rows)
    return placed(_served(row, _lost_at(row, known, reversed_at.get(row.pk))) for row in known)


def _served(row: Deployment, lost_at: datetime | None) -> Served:
    bounds, against = _bounds_of(row)
    assert row.serving_at is not None, "it served"
    return Served(str(row.pk), row.tree, row.serving_at, bounds, against, lost_at)


def _bounds_of(row: Deployment) -> tuple[dict[str, int], str | None]:
    """The canary's lower bounds by line, and the tree that they compare with, which its plan names; None: the best at that time."""
    if row.is_first or row.is_rollback:
        return {}, None
    result: dict[str, Any] = row.result
    plan: dict[str, Any] = row.plan
    if result.get("best"):
        return _bounds(result["best"]), plan.get("best")
    before = row.before
    return _bounds(result.get("served") or {}), plan.get("served", "" if before is None else before.tree)


def _bounds(lines: Mapping[str, Any]) -> dict[str, int]:
    return {line: int(lines[line]["bound_log_ppm"]) for line in PRICED_LINES if line in lines}


def _lost_at(row: Deployment, rows: Iterable[Deployment], reversed_at: datetime | None) -> datetime | None:
    """When its tree was found bad or rolled back, under this deployment or one that put it back later, or its gains reversed."""
    assert row.serving_at is not None, "it served"
    ends = [_bad_at(each) for each in rows if each.tree == row.tree]
    times = [at for at in ends if at is not None and at >= row.serving_at]
    return min([*times, *([reversed_at] if reversed_at else [])], default=None)


def _bad_at(row: Deployment) -> datetime | None:
    """When the platform asked for its rollback, whatever became of it, or when it was rolled back; None: neither."""
    if row.watch_ended_at is not None:
        return row.watch_ended_at
    return (row.ended_at or row.serving_at) if row.state == DeploymentState.ROLLED_BACK else None
