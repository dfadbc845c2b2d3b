"""What a policy is told: load, fleets, classes and objective of one served model at one time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet, Sum

from gainshare.capacity.deployments.serving import ordered_tree
from gainshare.capacity.models import LIVE, ActuatorName, DeviceClass, Host, Node, NodeState, ServedModel
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective
from gainshare.capacity.routing.load import load_of
from gainshare.capacity.routing.rates import measured
from gainshare.capacity.scaling.cold_starts import cold_start_s
from gainshare.capacity.scaling.costs import DAY, day_start, spent_today


@dataclass(frozen=True, slots=True)
class Observed:
    """A served model at one time. ``draining`` counts nodes that finish what they have begun, by class."""

    at: datetime
    load: Load
    fleets: dict[str, Fleet]
    draining: dict[str, int]
    classes: tuple[ClassFacts, ...]
    objective: Objective

    @property
    def day_ends_in_s(self) -> float:
        return (day_start(self.at) + DAY - self.at).total_seconds()

    def as_json(self) -> dict[str, Any]:
        """For the decision's row."""
        return {
            "load": asdict(self.load),
            "fleets": {name: asdict(fleet) for name, fleet in self.fleets.items()},
            "draining": self.draining,
            "classes": [asdict(facts) for facts in self.classes],
            "objective": asdict(self.objective),
        }


def observe(served: ServedModel, now: datetime) -> Observed:
    """Read everything once. The caller holds the model's lock, so nothing is ordered meanwhile."""
    classes = list(served.classes.order_by("name"))
    live = Node.objects.filter(model=served.name, state__in=LIVE).select_related("host__device_class")
    tree = ordered_tree(served.name)
    # Those of another tree are about to serve in the place of nodes that are counted, or no longer serve.
    nodes = [node for node in live if node.tree == tree or node.state == NodeState.DRAINING]
    names = {one.name for one in classes} | {node.host.device_class.name for node in nodes}
    return Observed(
        at=now,
        load=load_of(served.name, now),
        fleets={name: fleet_of(nodes, name) for name in sorted(names)},
        draining={
            name: count for name in sorted(names) if (count := _count(nodes, name, NodeState.DRAINING))
        },
        classes=with_assumed_rates([facts_of(one, served, now) for one in classes]),
        objective=objective_of(served, now),
    )


def fleet_of(nodes: list[Node], device_class: str) -> Fleet:
    """Nodes of one class that answer requests or will. A hung one does neither: its agent ends it or it comes back."""
    answering = [node for node in nodes if node.hung_at is None]
    leaving = [node for node in answering if node.host.leaves_at is not None]
    return Fleet(
        ready=_count(answering, device_class, NodeState.READY),
        starting=_count(answering, device_class, NodeState.STARTING),
        leaving=_count(leaving, device_class, NodeState.READY),
    )


def facts_of(device_class: DeviceClass, served: ServedModel, now: datetime) -> ClassFacts:
    """The class as a policy sees it; ``max_nodes`` is what is left for this model."""
    return ClassFacts(
        name=device_class.name,
        price=device_class.price_microcredits_per_device_hour,
        slots=served.slots,
        requests_per_s=measured(served.name, device_class.name).requests_per_s,
        cold_start_s=cold_start_s(device_class, served.name),
        max_nodes=room_for(device_class, served, now),
        is_preemptible=device_class.is_preemptible,
    )


def with_assumed_rates(classes: Sequence[ClassFacts]) -> tuple[ClassFacts, ...]:
    """The classes, where one that was never measured has the lowest measured rate of the others.

    Without an assumption it would never be used where another class answers all requests, and so never be measured.
    """
    measured_rates = [facts.requests_per_s for facts in classes if facts.requests_per_s > 0]
    lowest = min(measured_rates, default=0.0)
    return tuple(
        facts if facts.requests_per_s > 0 else replace(facts, requests_per_s=lowest) for facts in classes
    )


def room_for(device_class: DeviceClass, served: ServedModel, now: datetime) -> int:
    """Nodes that the model may have of the class: its limit, less other models' nodes, and no more than devices exist.

    The devices of hosts that are leaving or silent do not count, except those that the model has. An actuator that
    brings hosts itself is limited by the class alone.
    """
    live = Node.objects.filter(host__device_class=device_class, state__in=LIVE)
    room = device_class.max_nodes - _devices_of(live.exclude(model=served.name))
    if served.actuator == ActuatorName.LOCAL:
        room = min(room, _devices_for(device_class, served, now))
    return max(room, 0)


def _devices_for(device_class: DeviceClass, served: ServedModel, now: datetime) -> int:
    """Devices that the model's nodes have or could have."""
    seen = now - timedelta(seconds=settings.HOST_LOST_S)
    hosts = Host.objects.filter(
        device_class=device_class, revoked_at=None, leaves_at=None, last_seen_at__gt=seen
    )
    devices = hosts.aggregate(sum=Sum("n_devices"))["sum"] or 0
    nodes = Node.objects.filter(Q(state__in=LIVE) | Q(holds_device=True), host__device_class=device_class)
    own = Q(model=served.name, state__in=LIVE)
    taken = _devices_of(nodes.filter(host__in=hosts).exclude(own))
    elsewhere = _devices_of(nodes.filter(own).exclude(host__in=hosts))
    return devices - taken + elsewhere


def _devices_of(nodes: QuerySet[Node]) -> int:
    """Devices that these nodes have; two of one device are a node and its successor."""
    return nodes.order_by().values("host", "device").distinct().count()


def objective_of(served: ServedModel, now: datetime) -> Objective:
    """The model's promise, and what is left of the day's budget."""
    budget = served.budget_microcredits_per_day
    return Objective(
        first_token_p99_s=served.first_token_p99_ms / 1000,
        token_p99_s=served.token_p99_ms / 1000,
        budget_left_today=None if budget is None else budget - spent_today(served.name, now),
    )


def _count(nodes: list[Node], device_class: str, state: NodeState) -> int:
    return sum(node.state == state and node.host.device_class.name == device_class for node in nodes)
