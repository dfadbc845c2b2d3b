"""What a handover does next: wait, order successors, switch to the new tree, or give up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

MOST_FAILURES = 2  # starts on one device that end before they were ready


@dataclass(frozen=True, slots=True)
class Place:
    """A ready node of another tree, and the second berth of its device.

    ``can_follow`` is off where its host is silent, leaving or revoked: no successor can be started there.
    """

    node: UUID
    can_follow: bool = True
    is_berth_free: bool = True
    has_successor: bool = False
    is_successor_ready: bool = False


class Move(StrEnum):
    """What to do."""

    WAIT = "wait"
    SWITCH = "switch"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Step:
    """``order`` are the nodes that get a successor now; ``why`` is for a deployment that is given up."""

    move: Move
    order: tuple[UUID, ...] = ()
    why: str = ""


def next_step(
    places: Sequence[Place],
    *,
    n_ready: int,
    is_first: bool,
    is_wanted: bool,
    worst_failures: int,
    waited_s: float,
    limit_s: float,
) -> Step:
    """The next step of a deployment whose nodes start.

    ``n_ready`` counts the new tree's ready nodes, ``worst_failures`` its failed starts on the device that has most.
    It switches when each node that can have a successor has a ready one. Without any ready node of another tree there
    is nothing to hand over, so new nodes can be of the new tree from now on; only a first deployment shows before
    that it starts at all, where a node is wanted.
    """
    if worst_failures >= MOST_FAILURES:
        return Step(
            Move.GIVE_UP, why=f"its node ended before it was ready {worst_failures} times on a device"
        )
    if not places:
        is_shown = not is_first or n_ready > 0 or not is_wanted
        return Step(Move.SWITCH if is_shown else Move.WAIT)
    followed = [place for place in places if place.can_follow or place.is_successor_ready]
    if followed and all(place.is_successor_ready for place in followed):
        return Step(Move.SWITCH)
    if waited_s > limit_s:
        ready = sum(place.is_successor_ready for place in followed)
        return Step(
            Move.GIVE_UP,
            why=f"{ready} of {len(places)} nodes had a ready successor after {round(limit_s)} s",
        )
    missing = (
        place.node for place in places if place.can_follow and place.is_berth_free and not place.has_successor
    )
    return Step(Move.WAIT, order=tuple(missing))
