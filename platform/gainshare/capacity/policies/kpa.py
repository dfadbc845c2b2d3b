"""Knative's Pod Autoscaler as published: mean concurrency of a stable and of a panic window.

Sources: knative.dev, "Additional autoscaling configuration for KPA" and "Configuring targets"; the rules of
`Scale` in knative/serving `pkg/autoscaler/scaling/autoscaler.go`. Here a pod is a node, and its concurrency its slots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gainshare.capacity.policies.limits import change, count, spread, within
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Wanted
from gainshare.capacity.policies.samples import added, mean, number

TICK_S = 2.0
TARGET = 0.7  # container-concurrency-target-percentage
STABLE_S, PANIC_S = 60.0, 6.0
PANIC_AT = 2.0
MOST_UP, MOST_DOWN = 1000.0, 2.0
ZERO_GRACE_S = 30.0


def kpa(
    at_s: float,
    load: Load,
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    objective: Objective,
    state: Mapping[str, object],
    *,
    target: float = TARGET,
) -> Wanted:
    """Desired = ceil(mean concurrency / (target x slots)), over 60 s, in panic over 6 s and then only upwards.

    Panic begins when the panic window wants at least twice the ready nodes, and ends after 60 s without that. A step goes
    up at most 1000-fold and down at most to the half; to zero when the stable window is empty, after a grace of 30 s.
    """
    samples = added(state, "concurrency", at_s, load.running + load.waiting, STABLE_S)
    stable, panic = mean(samples, at_s, STABLE_S), mean(samples, at_s, PANIC_S)
    of_a_node = target * max((facts.slots for facts in classes), default=1)
    present = sum(fleet.ready for fleet in fleets.values())
    ready = max(1, present)
    highest, lowest = math.ceil(MOST_UP * ready), math.floor(ready / MOST_DOWN)
    by_stable, by_panic = math.ceil(stable / of_a_node), math.ceil(panic / of_a_node)
    desired = min(max(by_stable, lowest), highest)
    urgent = min(max(by_panic, lowest), highest)

    panic_at = number(state, "panic_at", -math.inf)
    most = int(number(state, "panic_nodes", 0))
    if by_panic / ready >= PANIC_AT:
        panic_at = at_s
    elif panic_at + STABLE_S < at_s:
        panic_at, most = -math.inf, 0
    is_panic = panic_at > -math.inf
    if is_panic:
        desired = most = max(desired, urgent, most)
    empty_at: float | None = None
    if stable == 0 and not is_panic:
        empty_at = number(state, "empty_at", at_s)
        desired = 0 if at_s - empty_at >= ZERO_GRACE_S else max(1, desired)
    elif desired == 0:
        desired = 1  # only an empty window ends the last node
    wanted, note = within(spread(desired, classes), at_s, fleets, classes, objective)
    seen, window = (panic, PANIC_S) if is_panic and by_panic >= by_stable else (stable, STABLE_S)
    reason = (
        f"{change(wanted, fleets)}: {count(seen)} requests at once in {window:.0f} s, "
        f"{count(of_a_node)} a node{', in panic' if is_panic else ''}{note}"
    )
    kept: dict[str, object] = {"concurrency": samples}
    if is_panic:
        kept |= {"panic_at": panic_at, "panic_nodes": most}
    if empty_at is not None:
        kept["empty_at"] = empty_at
    return Wanted(wanted, reason, kept)
