"""The wanted counts and the nodes as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gainshare.capacity.models import ScalingState
from gainshare.capacity.scaling.wanted import WantedRow, wanted_rows


def metrics_text() -> str:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Wanted(wanted_rows()))
    return generate_latest(registry).decode()


class _Wanted(Collector):
    def __init__(self, rows: list[WantedRow]) -> None:
        self._rows = rows

    def collect(self) -> Iterable[GaugeMetricFamily]:
        wanted = GaugeMetricFamily(
            "gainshare_wanted_nodes", "Nodes wanted of a class for a model.", labels=["model", "device_class"]
        )
        nodes = GaugeMetricFamily(
            "gainshare_nodes",
            "Nodes of a class for a model, by state.",
            labels=["model", "device_class", "state"],
        )
        for row in self._rows:
            wanted.add_metric([row.model, row.device_class], row.wanted)
            for state in ("starting", "ready", "draining"):
                nodes.add_metric([row.model, row.device_class, state], getattr(row, state))
        passed = GaugeMetricFamily(
            "gainshare_scaling_passed_timestamp_seconds",
            "When the control loop last passed the model.",
            labels=["model"],
        )
        for name, at in ScalingState.objects.exclude(passed_at=None).values_list("served__name", "passed_at"):
            passed.add_metric([name], at.timestamp() if at is not None else 0.0)
        return [wanted, nodes, passed]
