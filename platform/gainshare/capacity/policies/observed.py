"""What a policy is told and what it answers. The same in the simulation and in the control loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """A class of devices as a policy sees it. Prices are micro-credits per device-hour, times seconds.

    ``slots`` is how many requests one node answers at the same time; ``requests_per_s`` how many it ends in a second
    when all slots are used, as measured; 0 where nothing was measured yet. ``first_token_s`` is the 99th percentile of
    the time to the first token on a node that has nothing else to do, ``token_alone_s`` and ``token_full_s`` the time
    for each token with one slot used and with all of them; 0 where they are not known.

    ``read_s`` is how long a node reads a prompt on average, one after the other, and ``read_spread`` the variance of that
    time over the square of its mean. ``alone_s`` is the mean time of a whole request on an idle node, and
    ``held_up_share`` the share of answers whose tokens take longer than promised where another prompt is read meanwhile.
    With ``read_s`` 0 none of them is known.
    """

    name: str
    price: int
    slots: int
    requests_per_s: float
    cold_start_s: float
    max_nodes: int
    is_preemptible: bool = False
    first_token_s: float = 0.0
    token_alone_s: float = 0.0
    token_full_s: float = 0.0
    read_s: float = 0.0
    read_spread: float = 1.0
    alone_s: float = 0.0
    held_up_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Load of one model. ``running`` are answers in progress, ``waiting`` requests without a first token.

    ``arrivals`` are the numbers of requests of the latest whole steps of ``step_s`` seconds, oldest first. ``late_share``
    is measured, of the latest day's requests: the share of those whose first token came later than promised, or of those
    whose further tokens took longer each, whichever is larger. None: not known.
    """

    running: int
    waiting: int
    arrivals: tuple[int, ...] = ()
    step_s: float = 10.0
    late_share: float | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes of one class. ``leaving`` have a notice of preemption and count among the ready ones until they are gone."""

    ready: int
    starting: int = 0
    leaving: int = 0


@dataclass(frozen=True, slots=True)
class Objective:
    """What is promised to users, in seconds, and the budget in micro-credits (None: no limit)."""

    first_token_p99_s: float = 2.0
    token_p99_s: float = 0.1
    budget_left_today: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Nodes wanted of each class, the reason in one line for people, and the state for the next call."""

    nodes: Mapping[str, int]
    reason: str
    state: Mapping[str, object] = field(default_factory=dict)


# A policy is a pure function
#   (at_s: float, load: Load, fleets: Mapping[str, Fleet], classes: Sequence[ClassFacts], objective: Objective,
#    state: Mapping[str, object]) -> Wanted
# where at_s is UTC seconds, and state is JSON: what the last call returned, {} at first.
Policy = Callable[
    [float, Load, Mapping[str, Fleet], Sequence[ClassFacts], Objective, Mapping[str, object]], Wanted
]
