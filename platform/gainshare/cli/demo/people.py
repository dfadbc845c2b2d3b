"""Users of the demo: each signs up, makes an API key and calls the site by HTTP."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from gainshare.cli.client import TIMEOUT_S, Site, refusal

CONTRIBUTOR_SCOPES = ("read", "submit", "inference")
MAINTAINER_SCOPES = (*CONTRIBUTOR_SCOPES, "maintain")


@dataclass(frozen=True)
class Person(Site):
    """A user of the site with an API key."""

    name: str


def register(url: str, name: str) -> str:
    """Sign ``name`` up on the site; returns its new password. Raises SiteError."""
    password = secrets.token_urlsafe(18)
    _answer(
        httpx.post(f"{url}/api/v1/users/", json={"username": name, "password": password}, timeout=TIMEOUT_S)
    )
    return password


def log_in(url: str, name: str, password: str, scopes: Sequence[str]) -> Person:
    """Make a first API key with HTTP Basic, as the API's documentation says, and use it from then on."""
    body = {"name": "demo", "scopes": list(scopes)}
    made = _answer(httpx.post(f"{url}/api/v1/keys/", json=body, auth=(name, password), timeout=TIMEOUT_S))
    return Person(url, made["key"], name)


def contributor(url: str, name: str) -> Person:
    return log_in(url, name, register(url, name), CONTRIBUTOR_SCOPES)


def maintainer(url: str, name: str, *, admin: Site) -> Person:
    """Sign ``name`` up and let ``admin`` make it a maintainer before it makes its key."""
    password = register(url, name)
    admin.post(f"users/{name}/role/", {"role": "maintainer"})
    return log_in(url, name, password, MAINTAINER_SCOPES)


def _answer(response: httpx.Response) -> Any:
    if not response.is_success:
        raise refusal(response)
    return response.json()
