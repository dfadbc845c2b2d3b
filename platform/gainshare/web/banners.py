"""Banners above every page: a registry of providers.

The shell does not import the apps; `bounty.pages` registers its providers when the URLconf loads it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Banner:
    """One line for all users, with a link to more."""

    text: str
    url: str = ""


Provider = Callable[[], Sequence[Banner]]

_providers: dict[str, Provider] = {}


def register(name: str, provider: Provider) -> None:
    """Add a provider that is called for every page; it replaces the one with the same name."""
    _providers[name] = provider


def banners() -> list[Banner]:
    """All banners to show now."""
    return [banner for provider in _providers.values() for banner in provider()]
