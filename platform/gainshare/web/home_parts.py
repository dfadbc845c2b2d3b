"""Registry of the home page: parts for all users, and next steps for the logged-in user.

The shell does not import the apps; `bounty.pages` registers its providers when the URLconf loads it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser

from gainshare.accounts.models import User


@dataclass(frozen=True, slots=True)
class HomePart:
    """A part of the page: a template, which gets `context` under the name `part`."""

    template: str
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A suggested next step with its page."""

    text: str
    url: str


PartProvider = Callable[[User | AnonymousUser], HomePart]
StepsProvider = Callable[[User], Sequence[Suggestion]]

_parts: dict[str, PartProvider] = {}
_steps: dict[str, tuple[int, StepsProvider]] = {}


def register_part(name: str, provider: PartProvider) -> None:
    """Add a provider of a part; it replaces the one with the same name."""
    _parts[name] = provider


def register_steps(name: str, provider: StepsProvider, *, position: int) -> None:
    """Add a provider of next steps, which are listed in the order of `position`."""
    _steps[name] = (position, provider)


def parts_for(viewer: User | AnonymousUser) -> list[HomePart]:
    """Parts of all apps."""
    return [provider(viewer) for provider in _parts.values()]


def steps_for(user: User) -> list[Suggestion]:
    """Next steps of all apps for `user`."""
    ordered = sorted(_steps.values(), key=lambda entry: entry[0])
    return [step for _, provider in ordered for step in provider(user)]
