"""What stands above every page while it is so: a list of questions that apps add themselves to.

The shell does not import what plugs into it; `bounty.pages` registers its question when the URLconf loads it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Banner:
    """One line for everybody, with a page that says more."""

    text: str
    url: str = ""


Provider = Callable[[], Sequence[Banner]]

_providers: dict[str, Provider] = {}


def register(name: str, provider: Provider) -> None:
    """Have `provider` asked on every page; it replaces the one of the same name."""
    _providers[name] = provider


def banners() -> list[Banner]:
    """What holds now."""
    return [banner for provider in _providers.values() for banner in provider()]
