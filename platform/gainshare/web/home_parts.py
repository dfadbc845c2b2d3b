"""What apps show on the home page: parts for everybody, and next steps for the person who is signed in.

The shell does not import what plugs into it; `bounty.pages` registers its providers when the URLconf loads it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser

from gainshare.accounts.models import User


@dataclass(frozen=True, slots=True)
class HomePart:
    """A piece of the page: a template, which finds `context` under the name `part`."""

    template: str
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Something that the person may want to do next, and the page for it."""

    text: str
    url: str


PartProvider = Callable[[User | AnonymousUser], HomePart]
StepsProvider = Callable[[User], Sequence[Suggestion]]

_parts: dict[str, PartProvider] = {}
_steps: dict[str, tuple[int, StepsProvider]] = {}


def register_part(name: str, provider: PartProvider) -> None:
    """Have `provider` asked for its part; it replaces the one of the same name."""
    _parts[name] = provider


def register_steps(name: str, provider: StepsProvider, *, position: int) -> None:
    """Have `provider` asked for next steps, which are listed in the order of `position`."""
    _steps[name] = (position, provider)


def parts_for(viewer: User | AnonymousUser) -> list[HomePart]:
    """Every app's part."""
    return [provider(viewer) for provider in _parts.values()]


def steps_for(user: User) -> list[Suggestion]:
    """Every app's next steps for `user`."""
    ordered = sorted(_steps.values(), key=lambda entry: entry[0])
    return [step for _, provider in ordered for step in provider(user)]
