"""Time from an order to a ready node, as measured on the latest nodes."""

from __future__ import annotations

from statistics import median

from gainshare.capacity.models import DeviceClass, Node

LATEST = 20


def cold_start_s(device_class: DeviceClass, model: str) -> float:
    """Median of the class's latest nodes of that model, in seconds; the class's own figure until one was ready."""
    nodes = Node.objects.filter(host__device_class=device_class, model=model, ready_at__isnull=False)
    times = nodes.order_by("-ready_at").values_list("created_at", "ready_at")[:LATEST]
    seconds = [(ready - created).total_seconds() for created, ready in times if ready is not None]
    return median(seconds) if seconds else float(device_class.cold_start_s)
