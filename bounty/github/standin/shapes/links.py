"""Addresses and identifiers as the REST API shows them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime

from bounty.github.standin.records import Account, PullRequest, Repository


@dataclass(frozen=True)
class Site:
    """Where the stand-in is: ``web`` for people and git, ``api`` for REST."""

    web: str
    api: str

    def account(self, account: Account) -> str:
        return f"{self.api}/users/{account.login}"

    def repository(self, repository: Repository) -> str:
        return f"{self.api}/repos/{repository.full_name}"

    def pull(self, pull: PullRequest) -> str:
        return f"{self.repository(pull.repository)}/pulls/{pull.number}"

    def issue(self, pull: PullRequest) -> str:
        return f"{self.repository(pull.repository)}/issues/{pull.number}"

    def pull_page(self, pull: PullRequest) -> str:
        return f"{self.web}/{pull.repository.full_name}/pull/{pull.number}"


def stamp(at: datetime | None) -> str | None:
    """A time as GitHub writes it."""
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"


def node_id(kind: str, number: int) -> str:
    """An identifier of the GraphQL API, opaque to its readers."""
    return base64.b64encode(f"{kind}:{number}".encode()).decode()
