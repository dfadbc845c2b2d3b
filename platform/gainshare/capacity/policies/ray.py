"""Ray Serve's default autoscaling policy as published: ongoing requests over a target, with delays.

Sources: docs.ray.io, "Advanced Ray Serve Autoscaling" and AutoscalingConfig's defaults; the rules of
`replica_queue_length_autoscaling_policy` in ray-project/ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gainshare.capacity.policies.limits import change, count, have, spread, within
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Wanted
from gainshare.capacity.policies.samples import added, mean, number

TICK_S = 5.0
TARGET = 2.0  # target_ongoing_requests
LOOK_BACK_S = 30.0
UP_DELAY_S, DOWN_DELAY_S = 30.0, 600.0


def ray(
    at_s: float,
    load: Load,
    fleets: Mapping[str, Fleet],
    classes: Sequence[ClassFacts],
    objective: Objective,
    state: Mapping[str, object],
    *,
    target: float = TARGET,
    up_delay_s: float = UP_DELAY_S,
    down_delay_s: float = DOWN_DELAY_S,
) -> Wanted:
    """Desired = ceil(mean ongoing requests of 30 s / target), taken once it was above (or below) for the whole delay.

    Without a ready node one is started at once when there is a request. From several nodes it goes to one at least, and
    to zero only from one.
    """
    ongoing = added(state, "ongoing", at_s, load.running + load.waiting, LOOK_BACK_S)
    average = mean(ongoing, at_s, LOOK_BACK_S)
    current = sum(have(fleets, facts.name) for facts in classes)
    ready = sum(fleet.ready for fleet in fleets.values())
    desired = math.ceil(average / target)
    decided, since = current, None
    if ready == 0:
        decided = max(1, current) if load.running + load.waiting else current
    elif desired != current:
        desired = max(desired, 1 if current > 1 else 0)
        side = 1 if desired > current else -1
        since = number(state, "since", at_s) if state.get("side") == side else at_s
        if at_s - since > (up_delay_s if side > 0 else down_delay_s):
            decided, since = desired, None
    kept: dict[str, object] = {"ongoing": ongoing}
    if since is not None:
        kept |= {"since": since, "side": side}
    wanted, note = within(spread(decided, classes), at_s, fleets, classes, objective)
    reason = (
        f"{change(wanted, fleets)}: {count(average)} requests at once in 30 s, "
        f"{count(target)} a node wanted{note}"
    )
    return Wanted(wanted, reason, kept)
