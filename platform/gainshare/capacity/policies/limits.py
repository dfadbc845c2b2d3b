"""What no policy may pass: the classes' greatest number of nodes, and the day's budget. And reasons in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gainshare.capacity.policies.observed import ClassFacts, Fleet, Objective

DAY_S = 86_400
# What a node costs at least from a decision on: until the next one, and while it drains.
KEPT_S = 600.0
HOUR_S = 3600.0


def have(fleets: Mapping[str, Fleet], name: str) -> int:
    """Nodes of a class that stay: ready or starting, without those that have a notice of preemption."""
    fleet = fleets.get(name, Fleet(0))
    return max(0, fleet.ready - fleet.leaving) + fleet.starting


def spread(total: int, classes: Sequence[ClassFacts]) -> dict[str, int]:
    """``total`` nodes over the classes, the cheapest for each slot first, none above its class's greatest number."""
    nodes = {facts.name: 0 for facts in classes}
    for facts in sorted(classes, key=lambda facts: (facts.price / max(1, facts.slots), facts.name)):
        nodes[facts.name] = min(max(0, total), facts.max_nodes)
        total -= nodes[facts.name]
    return nodes


def within(
    nodes: Mapping[str, int],
    at_s: float,
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    objective: Objective,
) -> tuple[dict[str, int], str]:
    """Nodes within the limits, and a note of what was cut, empty if nothing was.

    Nodes with a notice of preemption are added, since they count until they are gone. A node is kept only while the
    budget pays for KEPT_S more, and started only if it pays for the start in addition, each at most until midnight UTC.
    The dearest for what it does goes first.
    """
    cut = {
        facts.name: max(0, min(nodes.get(facts.name, 0), facts.max_nodes - _leaving(fleets, facts.name)))
        for facts in classes
    }
    note = ""
    if objective.budget_left_today is not None:
        to_midnight = DAY_S - at_s % DAY_S
        gone = sum(_leaving(fleets, f.name) * f.price * min(KEPT_S, to_midnight) / HOUR_S for f in classes)
        left = objective.budget_left_today - gone
        for facts in sorted(classes, key=lambda facts: (_price_of_a_request(facts), facts.name)):
            affordable, left = _affordable(
                facts, cut[facts.name], have(fleets, facts.name), left, to_midnight
            )
            if affordable < cut[facts.name]:
                note = "; the day's budget allows no more"
            cut[facts.name] = affordable
    return {name: n + _leaving(fleets, name) for name, n in cut.items()}, note


def _affordable(
    facts: ClassFacts, wanted: int, present: int, left: float, to_midnight: float
) -> tuple[int, float]:
    """How many of the wanted nodes ``left`` micro-credits pay for, and what is left then."""
    second = facts.price / HOUR_S
    keep, start = (second * min(s, to_midnight) for s in (KEPT_S, KEPT_S + facts.cold_start_s))
    affordable = 0
    for number in range(wanted):
        cost = keep if number < present else start
        if cost > left:
            break
        left -= cost
        affordable += 1
    return affordable, left


def _price_of_a_request(facts: ClassFacts) -> float:
    return facts.price / (facts.requests_per_s or facts.slots)


def _leaving(fleets: Mapping[str, Fleet], name: str) -> int:
    fleet = fleets.get(name, Fleet(0))
    return min(fleet.leaving, fleet.ready)


def change(nodes: Mapping[str, int], fleets: Mapping[str, Fleet]) -> str:
    """``+1 spot-a10, -1 h100``, or ``no change``."""
    parts = []
    for name, wanted in nodes.items():
        more = wanted - have(fleets, name) - _leaving(fleets, name)
        if more:
            parts.append(f"{more:+d} {name}")
    return ", ".join(parts) or "no change"


def seconds(value: float) -> str:
    """A time for people: ``45 s``, ``2 min``, ``3.1 s``."""
    if not math.isfinite(value):
        return "hours"  # more comes than can end
    if value >= 90:
        return f"{value / 60:.0f} min"
    return f"{value:.1f} s" if value < 10 and value != int(value) else f"{value:.0f} s"


def count(value: float) -> str:
    """A rate or a number of requests for people: two digits below ten, whole above."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
