"""The tree before the one that serves, kept for a day for requests that name it (`model@HASH`).

One node keeps it, and only beside a node of the serving tree, so that it takes no device for itself. A deployment that
needs its berth ends it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings

from gainshare.capacity.models import UNDER_WAY, Deployment, DeploymentState, Node, NodeState


def former_trees(now: datetime) -> dict[str, str]:
    """The tree before by model, for the models that were handed over lately. A tree that was rolled back is not kept."""
    since = now - timedelta(seconds=settings.FORMER_TREE_S)
    serving = Deployment.objects.filter(
        state=DeploymentState.SERVING, serving_at__gt=since, is_first=False, is_rollback=False
    )
    rows = serving.select_related("before")
    return {row.model: "" if row.before is None else row.before.tree for row in rows}


def kept_node(model: str, now: datetime) -> UUID | None:
    """The node that keeps the tree before of ``model``: the oldest that is ready beside one of the serving tree."""
    former = former_trees(now).get(model)
    if former is None or Deployment.objects.filter(model=model, state__in=UNDER_WAY).exists():
        return None
    ready = Node.objects.filter(model=model, state=NodeState.READY, hung_at=None)
    beside = set(ready.exclude(tree=former).values_list("host", "device"))
    kept = ready.filter(tree=former).order_by("created_at", "pk").values_list("pk", "host", "device")
    return next((node for node, host, device in kept if (host, device) in beside), None)
