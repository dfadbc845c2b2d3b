"""Ours: the cheapest mix of classes for a forecast with a bound, changed only when that pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gainshare.capacity.policies.backlog import FIRST_MARGIN, Backlog, learned_margin
from gainshare.capacity.policies.demand import Demand, observe
from gainshare.capacity.policies.limits import change, count, have, seconds, within
from gainshare.capacity.policies.mix import (
    Needs,
    cheapest,
    cost,
    expected_p99_s,
    expected_slow_share,
    suffices,
)
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Wanted
from gainshare.capacity.policies.samples import number
from gainshare.capacity.policies.waiting import LATE_SHARE

TICK_S = 10.0
ERRORS = 0.5  # standard errors of the present rate that the bound lies above it
IDLE_S = 900.0  # without any request, until the last node ends
UNMEASURED_TARGET = 0.7  # share of slots to use where a class's rate was not measured yet
PAYS_WITHIN_S = 900.0  # an exchange of nodes must have paid for its cold starts after that time
LEAST_HOLD_S = 30.0


@dataclass(frozen=True, slots=True)
class _Plan:
    """Nodes wanted and why. ``is_less`` where nodes are given up: that waits until their cost equals that of a new start."""

    nodes: Mapping[str, int]
    why: str
    is_less: bool = False


def forecast(
    at_s: float,
    load: Load,
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    objective: Objective,
    state: Mapping[str, object],
) -> Wanted:
    """Nodes for the highest rate expected until a node ordered later would be ready.

    The bound above the forecast follows the share of requests that came too late. A backlog adds no more than what
    drains it after the next nodes are ready. Nodes are given up when they were not needed for as long as a new start
    takes, for which they cost as much as that start; and exchanged for cheaper ones when that pays soon.
    """
    demand = observe(at_s, load, state)
    backlog = Backlog.of(load, fleets, classes)
    margin = learned_margin(
        number(state, "margin", FIRST_MARGIN),
        at_s - number(state, "seen_at", at_s),
        load,
        backlog,
        classes,
        objective,
        demand.rate,
    )
    present = {facts.name: have(fleets, facts.name) for facts in classes}
    is_idle = not (load.running or load.waiting or any(load.arrivals))
    idle_at = number(state, "idle_at", at_s) if is_idle else at_s
    if is_idle and (at_s - idle_at >= IDLE_S or not sum(present.values())):
        plan = _Plan(dict.fromkeys(present, 0), f"no request for {seconds(at_s - idle_at)}")
    elif any(facts.requests_per_s <= 0 for facts in classes):
        plan = _unmeasured(load, classes, present)
    else:
        plan = _measured(fleets, classes, objective, demand, backlog, margin, present)
    kept = {**demand.state(), "margin": round(margin, 6), "seen_at": at_s, "idle_at": idle_at}
    if plan.is_less:
        spare_at = number(state, "spare_at", at_s)
        hold_s = max(LEAST_HOLD_S, *(facts.cold_start_s for facts in classes))
        kept["spare_at"] = spare_at
        if at_s - spare_at < hold_s:
            plan = _Plan(present, f"{plan.why}, nodes are kept for {seconds(hold_s)}")
    wanted, note = within(plan.nodes, at_s, fleets, classes, objective)
    return Wanted(wanted, f"{change(wanted, fleets)}: {plan.why}{note}", kept)


def _measured(
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    objective: Objective,
    demand: Demand,
    backlog: Backlog,
    margin: float,
    present: Mapping[str, int],
) -> _Plan:
    """The plan where all classes' rates are known."""
    cold_s = max(facts.cold_start_s for facts in classes)
    above = (1 + margin) * (1 + ERRORS * demand.error / max(demand.rate, 1e-9))

    def needs(within_s: float, more: float) -> Needs:
        return Needs(demand.most(within_s) * above + more, demand.dispersion, objective, max(1, backlog.used))

    soon = needs(cold_s + TICK_S, backlog.rate(fleets, classes, cold_s))
    told = f"{count(soon.rate)} requests/s forecast in {seconds(cold_s)}"
    if not suffices(present, classes, soon):
        return _Plan(cheapest(classes, soon, least=present), f"{told}, {_without(present, classes, soon)}")
    later = needs(2 * cold_s + TICK_S, 0.0)
    best = cheapest(classes, later)
    return _cheaper(fleets, classes, present, best, soon, later) or _Plan(
        present, f"{told}, p99 would be {seconds(expected_p99_s(present, classes, soon))}"
    )


def _without(present: Mapping[str, int], classes: Sequence[ClassFacts], soon: Needs) -> str:
    """What would become of the promises with the present nodes, in words."""
    slow = expected_slow_share(present, classes, soon)
    if LATE_SHARE < slow < 1 and expected_p99_s(present, classes, soon) <= soon.objective.first_token_p99_s:
        return f"{100 * slow:.1f} % of the answers would wait for others' prompts"
    return f"p99 would be {seconds(expected_p99_s(present, classes, soon))}"


def _cheaper(
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    present: Mapping[str, int],
    best: Mapping[str, int],
    soon: Needs,
    later: Needs,
) -> _Plan | None:
    """The step towards a cheaper mix that can be taken now; None where there is none, or it would not pay."""
    saved = cost(present, classes) - cost(best, classes)
    starts = sum(
        max(0, best[facts.name] - present[facts.name]) * facts.price * facts.cold_start_s / 3600
        for facts in classes
    )
    if saved <= 0 or saved * PAYS_WITHIN_S / 3600 <= starts:
        return None
    cold_s = max(facts.cold_start_s for facts in classes)
    told = f"{count(later.rate)} requests/s forecast in {seconds(2 * cold_s)}"
    if any(
        best[name] > n for name, n in present.items()
    ):  # what is given up stays until what replaces it is ready
        nodes = {name: max(n, best[name]) for name, n in present.items()}
        return _Plan(nodes, f"{told}, a cheaper mix is started")
    ready = {name: fleets[name].ready - fleets[name].leaving if name in fleets else 0 for name in present}
    if not suffices({name: min(best[name], ready[name]) for name in present}, classes, soon):
        return None
    p99 = seconds(expected_p99_s(best, classes, later))
    return _Plan(best, f"{told}, p99 would be {p99}", is_less=True)


def _unmeasured(load: Load, classes: Sequence[ClassFacts], present: Mapping[str, int]) -> _Plan:
    """By requests at once, until the gateway has measured rates; a backlog doubles the nodes at most."""
    at_once = load.running + load.waiting
    nodes = dict(present)
    slots = sum(nodes[facts.name] * facts.slots for facts in classes)
    capped = min(at_once, max(2 * slots, max(facts.slots for facts in classes)))
    for facts in sorted(classes, key=_price_of_a_slot):
        while slots * UNMEASURED_TARGET < capped and nodes[facts.name] < facts.max_nodes:
            nodes[facts.name] += 1
            slots += facts.slots
    for facts in sorted(classes, key=_price_of_a_slot, reverse=True):
        while nodes[facts.name] and (slots - facts.slots) * UNMEASURED_TARGET >= max(1, capped):
            nodes[facts.name] -= 1
            slots -= facts.slots
    is_less = any(nodes[name] < n for name, n in present.items())
    return _Plan(nodes, f"{at_once} requests at once, rates are not measured yet", is_less)


def _price_of_a_slot(facts: ClassFacts) -> tuple[float, str]:
    return facts.price / max(1, facts.slots), facts.name
