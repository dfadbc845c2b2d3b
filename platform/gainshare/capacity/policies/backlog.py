"""What waits in front: how long, how many nodes it calls for, and what it teaches about the bound of the forecast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gainshare.capacity.policies.limits import have
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective
from gainshare.capacity.policies.waiting import USUAL_PROMPT

DRAINED_WITHIN_S = 60.0
LATE_TARGET = 0.0095  # share of requests that may be late: a little less than a 99th percentile allows
MARGIN_GAIN = 50.0  # change of the margin in a day, for each unit that the share of late requests is off
LEAST_MARGIN, FIRST_MARGIN, MOST_MARGIN = -0.3, 0.1, 1.5
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """``used`` are slots that answer requests, ``queued`` the requests that wait for one, ``ends_per_s`` what ready nodes do."""

    used: int
    queued: int
    ends_per_s: float

    @classmethod
    def of(cls, load: Load, fleets: Mapping[str, Fleet], classes: Sequence[ClassFacts]) -> Backlog:
        ready = {facts.name: fleets[facts.name].ready for facts in classes if facts.name in fleets}
        slots = sum(ready.get(facts.name, 0) * facts.slots for facts in classes)
        ends = sum(ready.get(facts.name, 0) * facts.requests_per_s for facts in classes)
        present = load.running + load.waiting
        return cls(min(present, slots), max(0, present - slots), ends)

    @property
    def wait_s(self) -> float:
        """Estimated wait in front of a request that comes now."""
        if not self.queued:
            return 0.0
        return self.queued / self.ends_per_s if self.ends_per_s > 0 else math.inf

    def rate(self, fleets: Mapping[str, Fleet], classes: Sequence[ClassFacts], cold_s: float) -> float:
        """Requests a second by which the backlog raises the need, so that it is gone soon after nodes ordered now are ready.

        It never more than doubles what is there or starting: a backlog that grows while nodes start calls for no more.
        """
        if not self.queued:
            return 0.0
        ends = sum(have(fleets, facts.name) * facts.requests_per_s for facts in classes)
        one = max(facts.requests_per_s for facts in classes)
        return min(self.queued / (cold_s + DRAINED_WITHIN_S), max(ends, one))


def learned_margin(
    margin: float,
    passed_s: float,
    load: Load,
    backlog: Backlog,
    classes: Sequence[ClassFacts],
    objective: Objective,
    rate: float,
) -> float:
    """The bound's margin after ``passed_s`` more seconds: up while too many requests are late, down while too few are.

    By the measured share of the latest day, else by the estimated wait in front.
    """
    days = min(60.0, max(0.0, passed_s)) / DAY_S
    if load.late_share is not None:
        margin += MARGIN_GAIN * days * min(load.late_share - LATE_TARGET, LATE_TARGET)
    elif load.arrivals and rate > 0:
        prompt = max((facts.first_token_s for facts in classes), default=0.0)
        allowed = max(objective.first_token_p99_s, prompt) - USUAL_PROMPT * prompt
        came = load.arrivals[-1] / load.step_s / rate
        margin += MARGIN_GAIN * days * came * (float(backlog.wait_s > allowed) - LATE_TARGET)
    return min(MOST_MARGIN, max(LEAST_MARGIN, margin))
