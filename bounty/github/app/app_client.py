"""What the App asks of GitHub as itself: who it is, and where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone

from bounty.github.app.client import MOST_PAGES, PAGE, has_next
from bounty.github.app.credentials import app_requester
from bounty.github.app.errors import error_of
from bounty.github.app.facts import GitHubError
from bounty.github.app.outages import BAD_APP
from bounty.github.app.transport import Connection, Reply, send
from bounty.github.app.understanding import reads_answer


@dataclass(frozen=True, slots=True)
class AppFacts:
    """The App as GitHub has it."""

    app_id: str
    slug: str
    page: str
    permissions: dict[str, str]
    events: list[str]


@dataclass(frozen=True, slots=True)
class InstallationFacts:
    """One installation as GitHub has it. ``page`` is where its owner changes it."""

    installation_id: int
    account: str
    permissions: dict[str, str]
    is_suspended: bool
    page: str


class AppClient:
    """Calls of the App itself. Each may raise GitHubError or GitHubBusy."""

    def __init__(self) -> None:
        self._requester = app_requester()
        self._connection = Connection(settings.GITHUB_API_URL)

    @reads_answer
    def app(self) -> AppFacts:
        """The App."""
        data = self._get("/app").data
        return AppFacts(
            app_id=str(data["id"]),
            slug=str(data.get("slug") or ""),
            page=str(data.get("html_url") or ""),
            permissions=dict(data.get("permissions") or {}),
            events=list(data.get("events") or []),
        )

    @reads_answer
    def installations(self) -> list[InstallationFacts]:
        """All installations, also suspended ones; a removed one is no longer there."""
        found: list[InstallationFacts] = []
        for page in range(1, MOST_PAGES + 1):
            reply = self._get("/app/installations", {"per_page": PAGE, "page": page})
            found += [_installation(row) for row in reply.data]
            if not has_next(reply):
                break
        return found

    def _get(self, path: str, parameters: Mapping[str, Any] | None = None) -> Reply:
        reply = send(self._requester, self._connection, "GET", path, parameters=parameters)
        if reply.status < 400:
            return reply
        if reply.status in (401, 404):
            raise GitHubError(BAD_APP)
        raise error_of(reply.status, reply.headers, reply.message, what=f"GET {path}", now=timezone.now())


def _installation(data: dict[str, Any]) -> InstallationFacts:
    return InstallationFacts(
        installation_id=int(data["id"]),
        account=str((data.get("account") or {}).get("login") or ""),
        permissions=dict(data.get("permissions") or {}),
        is_suspended=bool(data.get("suspended_at")),
        page=str(data.get("html_url") or ""),
    )
