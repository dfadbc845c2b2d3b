"""Wanted counts of a maintainer: a fixed number of nodes, the cheapest classes first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gainshare.capacity.policies.observed import ClassFacts, Wanted

MANUAL = "manual"  # name in decisions


def manual_counts(nodes: int, classes: Sequence[ClassFacts]) -> Wanted:
    """Spread ``nodes`` over ``classes``, from the cheapest on, at most ``max_nodes`` on each."""
    counts, rest = {}, nodes
    for facts in sorted(classes, key=lambda facts: (facts.price, facts.name)):
        counts[facts.name] = min(rest, max(facts.max_nodes, 0))
        rest -= counts[facts.name]
    plural = "" if nodes == 1 else "s"
    reason = f"a maintainer set {nodes} node{plural}"
    if rest:
        reason += f"; the classes have no room for {rest} of them"
    return Wanted(nodes=counts, reason=reason)
