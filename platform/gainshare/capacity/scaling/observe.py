"""What a policy is told: load, fleets, classes and objective of one served model at one time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from gainshare.capacity.deployments.serving import ordered_tree
from gainshare.capacity.models import LIVE, Node, NodeState, ServedModel
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective
from gainshare.capacity.policies.service_times import reachable
from gainshare.capacity.routing.load import load_of
from gainshare.capacity.scaling.costs import DAY, day_start, ending_cost, spent_today
from gainshare.capacity.scaling.facts import facts_of, projected_price


@dataclass(frozen=True, slots=True)
class Observed:
    """A served model at one time. ``draining`` counts nodes that finish what they have begun, by class.

    ``prices`` are micro-credits for a device-hour of each class that the model may use or still has nodes of.

    ``objective`` is what is promised, or what idle nodes reach where they do not keep the promise; then ``unkept`` says so.
    """

    at: datetime
    load: Load
    fleets: dict[str, Fleet]
    draining: dict[str, int]
    classes: tuple[ClassFacts, ...]
    prices: dict[str, int]
    objective: Objective
    unkept: str = ""

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
    prices = {
        one.name: projected_price(one, served.name)
        for one in {*classes, *(node.host.device_class for node in nodes)}
    }
    names = set(prices)
    facts = facts_of(classes, served, now)
    promised = objective_of(served, now)
    objective = reachable(promised, *facts)
    load = load_of(served.name, now)
    return Observed(
        at=now,
        # Requests that no number of nodes answers in time say nothing about how many are needed.
        load=load if objective == promised else replace(load, late_share=None),
        fleets={name: fleet_of(nodes, name) for name in sorted(names)},
        draining={
            name: count for name in sorted(names) if (count := _count(nodes, name, NodeState.DRAINING))
        },
        classes=facts,
        prices=prices,
        objective=objective,
        unkept=unkept(promised, objective),
    )


def unkept(promised: Objective, reached: Objective) -> str:
    """In words, what of the promise not even an idle node keeps; empty where it can be kept."""
    parts = []
    if reached.first_token_p99_s > promised.first_token_p99_s:
        parts.append(
            f"first tokens are promised in {promised.first_token_p99_s:g} s, the fastest class needs "
            f"{reached.first_token_p99_s:g} s"
        )
    if reached.token_p99_s > promised.token_p99_s:
        parts.append(
            f"further tokens are promised in {1000 * promised.token_p99_s:g} ms, the fastest class needs "
            f"{1000 * reached.token_p99_s:g} ms"
        )
    return "; ".join(parts)


def fleet_of(nodes: list[Node], device_class: str) -> Fleet:
    """Nodes of one class that answer requests or will. A hung one does neither: its agent ends it or it comes back."""
    answering = [node for node in nodes if node.hung_at is None]
    leaving = [node for node in answering if node.host.leaves_at is not None]
    return Fleet(
        ready=_count(answering, device_class, NodeState.READY),
        starting=_count(answering, device_class, NodeState.STARTING),
        leaving=_count(leaving, device_class, NodeState.READY),
    )


def objective_of(served: ServedModel, now: datetime) -> Objective:
    """The model's promise, and what is left of the day's budget once nodes that drain or hang are paid."""
    budget = served.budget_microcredits_per_day
    spent = spent_today(served.name, now) + ending_cost(served.name, now)
    return Objective(
        first_token_p99_s=served.first_token_p99_ms / 1000,
        token_p99_s=served.token_p99_ms / 1000,
        budget_left_today=None if budget is None else budget - spent,
    )


def _count(nodes: list[Node], device_class: str, state: NodeState) -> int:
    return sum(node.state == state and node.host.device_class.name == device_class for node in nodes)
