"""The wanted counts as programs read them: one row for each served model and class."""

from __future__ import annotations

from dataclasses import dataclass

from gainshare.capacity.models import LIVE, Node, NodeState, ServedModel


@dataclass(frozen=True, slots=True)
class WantedRow:
    """Nodes wanted of one class for one model, and those that are there."""

    model: str
    device_class: str
    wanted: int
    starting: int = 0
    ready: int = 0
    draining: int = 0


def wanted_rows(model: str | None = None) -> list[WantedRow]:
    """All rows, or those of one model, by model and class. A class that has nodes is there although none is wanted."""
    served = ServedModel.objects.select_related("scaling").prefetch_related("classes").order_by("name")
    if model is not None:
        served = served.filter(name=model)
    return [row for one in served for row in _rows_of(one)]


def _rows_of(served: ServedModel) -> list[WantedRow]:
    scaling = getattr(served, "scaling", None)
    wanted: dict[str, int] = {} if scaling is None else scaling.wanted
    counts: dict[str, dict[str, int]] = {}
    nodes = Node.objects.filter(model=served.name, state__in=LIVE)
    for name, state in nodes.values_list("host__device_class__name", "state"):
        states = counts.setdefault(name, {})
        states[state] = states.get(state, 0) + 1
    names = {one.name for one in served.classes.all()} | set(counts) | set(wanted)
    return [
        WantedRow(
            model=served.name,
            device_class=name,
            wanted=wanted.get(name, 0),
            starting=counts.get(name, {}).get(NodeState.STARTING, 0),
            ready=counts.get(name, {}).get(NodeState.READY, 0),
            draining=counts.get(name, {}).get(NodeState.DRAINING, 0),
        )
        for name in sorted(names)
    ]
