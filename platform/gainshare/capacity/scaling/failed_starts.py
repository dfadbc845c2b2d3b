"""Pauses between orders when nodes end before they were ready, so that a broken start is not repeated without end."""

from __future__ import annotations

from datetime import datetime, timedelta

from gainshare.capacity.models import DeviceClass, Node, NodeState

FIRST_PAUSE_S = 4
LONGEST_PAUSE_S = 300
LOOKED_AT = 8  # nodes: enough for the longest pause


def pause_s(failures: int) -> int:
    """Seconds to wait after so many failed starts in a row. None after the first: that may have been chance."""
    if failures <= 1:
        return 0
    return min(FIRST_PAUSE_S << (failures - 2), LONGEST_PAUSE_S)


def paused_until(model: str, device_class: DeviceClass, *, tree: str) -> datetime | None:
    """When the next node of this model may be ordered on the class; None: at once. Other trees' failures do not count."""
    nodes = Node.objects.filter(model=model, host__device_class=device_class, tree=tree)
    failures, last = 0, None
    for node in nodes.order_by("-created_at")[:LOOKED_AT]:
        if not _failed(node):
            break
        failures += 1
        last = last or node.ended_at
    pause = pause_s(failures)
    return last + timedelta(seconds=pause) if last is not None and pause else None


def _failed(node: Node) -> bool:
    """Whether its agent had begun it and it ended by itself, without ever being ready."""
    return (
        node.state == NodeState.ENDED
        and node.ready_at is None
        and node.draining_at is None
        and node.told_at is not None
    )
