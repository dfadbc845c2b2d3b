"""Which hosts in a Ray cluster have to be replaced, and how soon new ones are tried after failures."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from gainshare.capacity.hosts.silence import ask
from gainshare.capacity.models import DeviceClass, EngineHost, NodeState, ServedModel
from gainshare.capacity.scaling.failed_starts import LOOKED_AT, pause_s

UNSEEN_S = 300  # an actor whose agent was not heard for so long is replaced


def failure_of(one: EngineHost, actor: Mapping[str, Any] | None, now: datetime) -> str:
    """Why the host has to be replaced; empty: it has not.

    An actor that gives no word waits for a machine, or Ray is busy: it is no failure until its agent is silent as well.
    The silence may also be the site's, so a host whose node answers stays.
    """
    if actor is None:
        return "its actor is gone"
    if actor["state"] == "ended":
        return f"its agent ended: {actor['said'].strip()[-160:]}"
    unheard_s = float(actor["ran_s"])  # 0 while it has no machine
    if one.host.last_seen_at is not None:
        silent_s = (now - one.host.last_seen_at).total_seconds()
        unheard_s = silent_s if actor["state"] == "pending" else min(unheard_s, silent_s)
    if unheard_s <= UNSEEN_S or ask(
        list(one.host.nodes.exclude(url="").filter(state=NodeState.READY).values_list("pk", "url"))
    ):
        return ""
    return f"its agent was not heard for {UNSEEN_S} s"


def paused_until(served: ServedModel, device_class: DeviceClass, now: datetime) -> datetime | None:
    """When the next host may be made, if the latest ones failed before their agents spoke; None: at once."""
    latest = EngineHost.objects.filter(served=served, host__device_class=device_class).select_related("host")
    failures: list[datetime] = []
    for one in latest.order_by("-host__created_at")[:LOOKED_AT]:
        if one.host.revoked_at is None or one.host.last_seen_at is not None or not one.host.problem:
            break
        failures.append(one.host.revoked_at)
    until = max(failures) + timedelta(seconds=pause_s(len(failures))) if failures else now
    return until if until > now else None
