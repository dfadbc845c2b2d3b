"""Worlds that policies are tested in: a class, a load, and a small control loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Policy, Wanted

NODE = ClassFacts("h100", 2_000_000, 4, 0.5, 120.0, 20, False, 0.8, 0.02, 0.05)
SPOT = ClassFacts("spot-a10", 600_000, 4, 0.4, 120.0, 12, True, 1.0, 0.02, 0.06)


def ask(
    policy: Policy,
    at_s: float,
    *,
    at_once: int = 0,
    waiting: int = 0,
    ready: int = 1,
    starting: int = 0,
    state: Mapping[str, object] | None = None,
    arrivals: Sequence[int] = (),
    facts: ClassFacts = NODE,
) -> Wanted:
    """One call with one class."""
    load = Load(at_once, waiting, tuple(arrivals))
    return policy(at_s, load, {facts.name: Fleet(ready, starting)}, [facts], Objective(), state or {})


def follow(
    policy: Policy,
    concurrency: Callable[[float], int],
    *,
    until_s: float,
    tick_s: float,
    ready: int,
    facts: ClassFacts = NODE,
) -> list[tuple[float, int]]:
    """Nodes wanted over time, each change, where nodes are ready and gone at once. State goes through JSON each time."""
    state: Mapping[str, object] = {}
    changes = [(0.0, ready)]
    for tick in range(int(until_s / tick_s) + 1):
        at_s = tick * tick_s
        found = ask(policy, at_s, at_once=concurrency(at_s), ready=ready, state=state, facts=facts)
        state = json.loads(json.dumps(found.state))
        if found.nodes[facts.name] != ready:
            ready = found.nodes[facts.name]
            changes.append((at_s, ready))
    return changes
