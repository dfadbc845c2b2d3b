"""Kubernetes' HorizontalPodAutoscaler behind KEDA as published, on requests in progress and waiting.

Sources: kubernetes.io, "Horizontal Pod Autoscaling" (algorithm, tolerance, default behaviour); keda.sh, "Scaling
Deployments" and the ScaledObject specification (0 <-> 1, pollingInterval, cooldownPeriod).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gainshare.capacity.policies.limits import change, count, have, spread, within
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Wanted
from gainshare.capacity.policies.samples import added, number

TICK_S = 15.0
TARGET = 0.7  # share of a node's slots
TOLERANCE = 0.1
DOWN_WINDOW_S = 300.0
UP_FACTOR, UP_PODS, UP_PERIOD_S = 2, 4, 15.0
COOL_DOWN_S = 300.0


def hpa(
    at_s: float,
    load: Load,
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    objective: Objective,
    state: Mapping[str, object],
    *,
    target: float = TARGET,
) -> Wanted:
    """Desired = ceil(nodes x (requests a node / target)); nothing within 10 %.

    Up at most to twice the nodes or by four within 15 s, whichever is more; down to the largest recommendation of 300 s.
    KEDA goes from 0 to 1 when there is a request, and to 0 when there was none for 300 s.
    """
    concurrency = load.running + load.waiting
    of_a_node = target * max((facts.slots for facts in classes), default=1)
    current = sum(have(fleets, facts.name) for facts in classes)
    active_at = at_s if concurrency else number(state, "active_at", at_s)
    ratio = concurrency / (max(1, current) * of_a_node)
    recommended = (
        current if current and abs(ratio - 1) <= TOLERANCE else max(1, math.ceil(concurrency / of_a_node))
    )
    history = added(state, "recommended", at_s, recommended, DOWN_WINDOW_S)
    sizes = added(state, "sizes", at_s, current, UP_PERIOD_S)
    least = min(int(size) for _, size in sizes)
    desired = min(recommended, max(UP_FACTOR * least, least + UP_PODS))
    if desired < current:
        desired = min(current, max(int(value) for _, value in history))
    if current == 0:
        desired = 1 if concurrency else 0
    elif not concurrency and at_s - active_at >= COOL_DOWN_S:
        desired = 0
    wanted, note = within(spread(desired, classes), at_s, fleets, classes, objective)
    reason = (
        f"{change(wanted, fleets)}: {concurrency} requests on {current} nodes, {count(of_a_node)} a node wanted"
        f"{', largest of 300 s' if desired > recommended else ''}{note}"
    )
    return Wanted(wanted, reason, {"recommended": history, "sizes": sizes, "active_at": active_at})
