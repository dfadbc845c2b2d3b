"""Navigation of the site: a registry of entries by URL name.

The shell does not import the apps; `bounty.pages` registers its entries when the URLconf loads it.
"""

from dataclasses import dataclass
from enum import StrEnum

from django.contrib.auth.models import AnonymousUser
from django.urls import reverse

from gainshare.accounts.models import User


class Audience(StrEnum):
    """Users who see an entry."""

    EVERYONE = "everyone"
    SIGNED_IN = "signed_in"
    MAINTAINERS = "maintainers"
    STAFF = "staff"


@dataclass(frozen=True, slots=True)
class NavEntry:
    """A link in the header. Entries are in the order of `position`."""

    label: str
    url_name: str
    position: int
    audience: Audience = Audience.EVERYONE


@dataclass(frozen=True, slots=True)
class NavLink:
    """An entry as shown on one page."""

    label: str
    url: str
    is_current: bool


_entries: dict[str, NavEntry] = {}


def register(entry: NavEntry) -> None:
    """Add an entry, or replace the one with the same URL name."""
    _entries[entry.url_name] = entry


def links_for(user: User | AnonymousUser, path: str) -> list[NavLink]:
    """The links that `user` sees while at `path`."""
    shown = {Audience.EVERYONE}
    if user.is_authenticated:
        shown.add(Audience.SIGNED_IN)
        if user.is_maintainer:
            shown.add(Audience.MAINTAINERS)
        if user.is_staff:
            shown.add(Audience.STAFF)
    entries = sorted((e for e in _entries.values() if e.audience in shown), key=lambda entry: entry.position)
    links = [(entry.label, reverse(entry.url_name)) for entry in entries]
    return [NavLink(label, url, is_current=path.startswith(url)) for label, url in links]
