"""What an actuator is: it carries out wanted counts, and can be asked again at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from gainshare.capacity.models import ServedModel


@dataclass(frozen=True, slots=True)
class Plan:
    """Wanted nodes of each class, and why.

    Nodes above ``payable`` go at once, even where what replaces them is not ready; None is no limit.
    """

    wanted: Mapping[str, int]
    reason: str
    payable: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that an actuator did: ``verb`` is order or drain."""

    verb: str
    device_class: str
    node: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and in one line what could not be done (empty: nothing)."""

    actions: list[Action] = field(default_factory=list)
    problem: str = ""


class Actuator(Protocol):
    """Carries out wanted counts. Both calls compare what is there with what is wanted, so repeating them does no harm."""

    @property
    def name(self) -> str: ...

    def carry_out(self, served: ServedModel, plan: Plan) -> Outcome:
        """Order and drain nodes. Runs in the pass's transaction, so it may change the database and nothing else."""
        ...

    def settle(self, served: ServedModel, now: datetime) -> None:
        """Talk to the engine outside, if it is time to. Keeps what went wrong in the model's `ScalingState`."""
        ...
