"""Policies compared with the smallest fixed fleet that meets the objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gainshare.capacity.policies.fixed import fixed_at
from gainshare.capacity.policies.hpa import hpa
from gainshare.capacity.policies.kpa import kpa
from gainshare.capacity.policies.observed import Objective, Policy
from gainshare.capacity.policies.ray import ray
from gainshare.capacity.policies.registry import POLICIES, TICKS_S
from gainshare.capacity.simulation.pool import Device, Progress, Setting, simulate
from gainshare.capacity.simulation.results import Outcome
from gainshare.capacity.simulation.workload import Workload

OURS = "forecast"
PUBLISHED = ("kpa", "hpa", "ray")
TARGETS = (0.5, 0.35, 0.25)  # shares of a node's slots that are tried besides the published one
FAST_RAY = (10.0, 120.0)  # delays up and down

Say = Callable[[str], None]


class NoFleetMeets(Exception):
    """No fixed fleet meets the objective. The message says what the largest one reaches."""


@dataclass(frozen=True)
class Compared:
    """Outcomes by policy; the fixed fleet's is not among them. ``tuned`` has the best of each published policy's variants."""

    fixed_nodes: int
    fixed: Outcome
    outcomes: Mapping[str, Outcome]
    tuned: Mapping[str, Outcome]
    objective: Objective

    def saved(self, outcome: Outcome) -> float:
        """Share of the fixed fleet's cost that a policy saves; negative where it is dearer."""
        return 1 - outcome.cost / self.fixed.cost

    def meets(self, outcome: Outcome) -> bool:
        return outcome.meets(self.objective.first_token_p99_s, self.objective.token_p99_s)

    def best_published(self) -> Outcome | None:
        """The cheapest published policy, as published or tuned, that meets the objective."""
        found = [self.outcomes[name] for name in PUBLISHED if name in self.outcomes] + list(
            self.tuned.values()
        )
        return min((one for one in found if self.meets(one)), key=lambda one: one.cost, default=None)


def smallest_fixed(
    workload: Workload, setting: Setting, *, most: int, say: Say, progress: Progress | None = None
) -> tuple[int, Outcome]:
    """The smallest number of nodes of the first class that meets the objective, and its outcome, by simulation.

    Raises NoFleetMeets.
    """
    kept: dict[int, Outcome] = {}

    def meets(nodes: int) -> bool:
        one = replace(setting, initial={setting.devices[0].facts.name: nodes})
        found = simulate(workload, fixed_at(nodes), one, name="fixed", tick_s=3600, progress=progress)
        kept[nodes] = found
        say(
            f"fixed fleet of {nodes}: p99 of the first token {found.first_token_p99_s:.2f} s, "
            f"of a token {1000 * found.token_p99_s:.0f} ms"
        )
        goal = setting.objective
        return found.meets(goal.first_token_p99_s, goal.token_p99_s)

    facts = setting.devices[0].facts
    mean_rate = len(workload.at_s) / max(workload.end_s, 1.0)
    high = max(1, math.ceil(mean_rate / facts.requests_per_s))
    low = high - 1 if high > 1 else 0  # less than the mean load never meets it
    while not meets(high):
        if high >= most:
            found = kept[high]
            raise NoFleetMeets(
                f"no fixed fleet of up to {most} nodes meets {setting.objective.first_token_p99_s:g} s to the first token "
                f"and {1000 * setting.objective.token_p99_s:g} ms for each other one: {high} nodes reach "
                f"{found.first_token_p99_s:.2f} s and {1000 * found.token_p99_s:.0f} ms; give a longer objective"
            )
        low, high = high, min(most, max(high + 1, math.ceil(high * 1.5)))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high, kept[high]


def variants(slots: int) -> dict[str, list[tuple[str, Policy]]]:
    """Published policies with other targets than published, for a baseline that is tuned as well."""
    found: dict[str, list[tuple[str, Policy]]] = {"kpa": [], "hpa": [], "ray": []}
    for share in TARGETS:
        found["kpa"].append((f"kpa at {share:g}", partial(kpa, target=share)))
        found["hpa"].append((f"hpa at {share:g}", partial(hpa, target=share)))
        up, down = FAST_RAY
        fast = partial(ray, target=share * slots, up_delay_s=up, down_delay_s=down)
        found["ray"].append((f"ray at {share * slots:g}, {up:.0f}/{down:.0f} s", fast))
    return found


def compare(
    workload: Workload,
    devices: Sequence[Device],
    objective: Objective,
    *,
    policies: Sequence[str],
    is_tuned: bool,
    fixed: tuple[int, Outcome],
    budget_a_day: int | None,
    seed: int,
    say: Say,
    progress: Progress | None = None,
) -> Compared:
    """Outcomes of the policies, each beginning with the fixed fleet's nodes."""
    nodes, outcome = fixed
    setting = Setting(devices, objective, {devices[0].facts.name: nodes}, budget_a_day, seed)

    def run(name: str, base: str, policy: Policy) -> Outcome:
        found = simulate(workload, policy, setting, name=name, tick_s=TICKS_S[base], progress=progress)
        say(
            f"{name}: {100 * (1 - found.cost / outcome.cost):+.1f} % saved, p99 of the first token "
            f"{found.first_token_p99_s:.2f} s, of a token {1000 * found.token_p99_s:.0f} ms"
        )
        return found

    outcomes = {name: run(name, name, POLICIES[name]) for name in policies}
    compared = Compared(nodes, outcome, outcomes, {}, objective)
    tuned = {}
    if is_tuned:
        for base, others in variants(devices[0].facts.slots).items():
            if base in policies:
                tried = [outcomes[base], *(run(name, base, policy) for name, policy in others)]
                tuned[base] = _best(compared, tried)
    return replace(compared, tuned=tuned)


def _best(compared: Compared, tried: Sequence[Outcome]) -> Outcome:
    """The cheapest that meets the objective, else the one with the shortest wait."""
    met = [one for one in tried if compared.meets(one)]
    return min(met, key=lambda one: one.cost) if met else min(tried, key=lambda one: one.first_token_p99_s)
