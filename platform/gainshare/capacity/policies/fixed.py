"""A fixed number of nodes, whatever comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from gainshare.capacity.policies.limits import change, spread, within
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Policy, Wanted


def fixed(
    at_s: float,
    load: Load,
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    objective: Objective,
    state: Mapping[str, object],
    *,
    nodes: int = 1,
) -> Wanted:
    """``nodes`` nodes, of the cheapest classes first; the load changes nothing."""
    wanted, note = within(spread(nodes, classes), at_s, fleets, classes, objective)
    return Wanted(wanted, f"{change(wanted, fleets)}: {nodes} nodes are set{note}", {})


def fixed_at(nodes: int) -> Policy:
    """The policy with that many nodes."""
    return partial(fixed, nodes=nodes)
