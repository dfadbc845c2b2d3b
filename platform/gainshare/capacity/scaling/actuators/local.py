"""Carries out wanted counts on hosts that are there: their agents start and drain the nodes."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from django.db.models import Count
from django.utils import timezone

from gainshare.capacity.deployments.serving import ordered_tree
from gainshare.capacity.hosts import nodes as life_cycle
from gainshare.capacity.models import DeviceClass, Node, NodeState, Seat, ServedModel
from gainshare.capacity.pool.loans import recall_for
from gainshare.capacity.scaling.actuators.choice import Candidate, to_drain
from gainshare.capacity.scaling.actuators.interface import Action, Outcome, Plan
from gainshare.capacity.scaling.failed_starts import paused_until


class LocalActuator:
    """Orders nodes on free devices and drains those above the wanted counts."""

    name = "local"

    def carry_out(self, served: ServedModel, plan: Plan) -> Outcome:
        ordered = order_missing(served, plan)
        drained = drain_surplus(served, plan)
        return Outcome(ordered.actions + drained, ordered.problem)

    def settle(self, served: ServedModel, now: datetime) -> None:
        """There is no engine outside that has to be told anything."""


def order_missing(served: ServedModel, plan: Plan) -> Outcome:
    """Order as many nodes as are missing in each class, the cheapest class first, as far as devices are free."""
    actions: list[Action] = []
    problems: list[str] = []
    now = timezone.now()
    there = Counter(node.device_class for node in candidates(served.name))
    classes = DeviceClass.objects.filter(name__in=list(plan.wanted))
    for device_class in classes.order_by("price_microcredits_per_device_hour", "name"):
        missing = plan.wanted[device_class.name] - there[device_class.name]
        if missing > 0:
            done, problem = _order(served, device_class, missing, plan.reason, now)
            actions += done
            problems += [problem] if problem else []
    return Outcome(actions, "; ".join(problems))


def drain_surplus(served: ServedModel, plan: Plan) -> list[Action]:
    """Drain the nodes above the wanted counts, and say which."""
    return [
        Action("drain", node.device_class, str(node.id))
        for node in to_drain(candidates(served.name), plan.wanted, plan.payable)
        if life_cycle.drain(node_id=node.id, reason=plan.reason)
    ]


def candidates(model: str) -> list[Candidate]:
    """The model's nodes that answer requests or will. A hung one is neither: its agent ends it or it comes back.

    Nodes of another tree than the one that is ordered are a deployment's own, or drain.
    """
    nodes = Node.objects.filter(
        model=model,
        tree=ordered_tree(model),
        state__in=[NodeState.STARTING, NodeState.READY],
        hung_at=None,
    )
    seats = dict(
        Seat.objects.filter(model=model).exclude(node="").values_list("node").annotate(seats=Count("pk"))
    )
    return [
        Candidate(
            id=node.id,
            device_class=node.host.device_class.name,
            price=node.price_microcredits_per_device_hour,
            is_ready=node.state == NodeState.READY,
            is_leaving=node.host.leaves_at is not None,
            busy=max(seats.get(str(node.id), 0), _reported(node)),
            created_at=node.created_at,
        )
        for node in nodes.select_related("host__device_class")
    ]


def _reported(node: Node) -> int:
    """Requests that the node itself counted at its agent's last look."""
    counted = [node.load.get("running"), node.load.get("waiting")]
    return sum(count for count in counted if isinstance(count, int))


def _order(
    served: ServedModel, device_class: DeviceClass, missing: int, reason: str, now: datetime
) -> tuple[list[Action], str]:
    tree = ordered_tree(served.name)
    until = paused_until(served.name, device_class, tree=tree)
    if until is not None and until > now:
        return (
            [],
            f"the latest nodes on {device_class} ended before they were ready; next try at {until:%H:%M:%S} UTC",
        )
    actions: list[Action] = []
    for place in range(missing):
        node = life_cycle.order(model=served.name, device_class=device_class, reason=reason, tree=tree)
        if node is None:
            return actions, _none_free(device_class, missing - place, missing, reason)
        actions.append(Action("order", device_class.name, str(node.id)))
    return actions, ""


def _none_free(device_class: DeviceClass, lacking: int, missing: int, reason: str) -> str:
    """Recall devices that are lent to judging, and say what is lacking and what comes back."""
    coming = recall_for(device_class=device_class, count=lacking, reason=reason)
    problem = f"no device is free for {lacking} of {missing} more {device_class}"
    return f"{problem}; {coming} lent to judging will be back within 30 s" if coming else problem
