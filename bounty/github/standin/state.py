"""The stand-in's memory: finds accounts, repositories and pull requests, and numbers what is new."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bounty.github.standin.limits import Limits
from bounty.github.standin.records import (
    Account,
    App,
    Comment,
    Grant,
    Installation,
    PullRequest,
    Recorded,
    Repository,
    Token,
)

# GitHub's numbers no longer fit 32 bits everywhere.
FIRST_NUMBERS = {
    "account": 583_231, "repository": 910_204_133, "pull": 2_148_204_771, "comment": 3_021_480_112,
    "review": 2_914_480_007, "check": 31_204_771_902, "installation": 51_208_811, "reaction": 248_113_001,
    "delivery": 170_008_114_000_000_001,
}  # fmt: skip


class State:
    """Everything that the stand-in knows. Hold ``lock`` while reading or changing it."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.api_url = f"{url}/api/v3"
        self.lock = threading.RLock()
        self.limits = Limits()
        self.accounts: dict[int, Account] = {}
        self.repositories: dict[int, Repository] = {}
        self.installations: dict[int, Installation] = {}
        self.former_names: dict[str, int] = {}
        self.tokens: dict[str, Token] = {}
        self.grants: dict[str, Grant] = {}
        self.requests: list[Recorded] = []
        self.manifests: dict[str, dict[str, Any]] = {}
        self.broken_status = 0  # every request to the REST API is answered with it, by a page of text
        self.signed_in: Account | None = None
        self.app: App | None = None
        self._ahead = timedelta()
        self._numbers: dict[str, Iterator[int]] = {
            kind: itertools.count(first) for kind, first in FIRST_NUMBERS.items()
        }
        self._issue_numbers: dict[int, int] = defaultdict(int)

    def now(self) -> datetime:
        """The stand-in's time, in whole seconds as GitHub tells it."""
        return (datetime.now(UTC) + self._ahead).replace(microsecond=0)

    def pass_time(self, ahead: timedelta) -> None:
        """Let time pass: tokens expire, limits reset."""
        self._ahead += ahead

    def number(self, kind: str) -> int:
        """The next number of a kind."""
        return next(self._numbers[kind])

    def issue_number(self, repository: Repository) -> int:
        """The next number of a pull request in its repository."""
        self._issue_numbers[repository.github_id] += 1
        return self._issue_numbers[repository.github_id]

    def account(self, login: str) -> Account | None:
        """The account of that name, in whatever letter case."""
        return next((a for a in self.accounts.values() if a.login.lower() == login.lower()), None)

    def repository(self, full_name: str) -> Repository | None:
        """The repository of that present name, in whatever letter case."""
        wanted = full_name.lower()
        return next((r for r in self.repositories.values() if r.full_name.lower() == wanted), None)

    def moved(self, full_name: str) -> Repository | None:
        """The repository that had that name once, if no other has it now."""
        found = self.former_names.get(full_name.lower())
        return None if found is None else self.repositories.get(found)

    def installation_of(self, repository: Repository) -> Installation | None:
        """The installation that opens a repository to the App, suspended or not."""
        return next(
            (i for i in self.installations.values() if not i.is_removed and repository in i.repositories),
            None,
        )

    def comment(self, repository: Repository, comment_id: int) -> tuple[PullRequest, Comment] | None:
        """The comment of that number, with its pull request."""
        for pull in repository.pulls.values():
            for comment in pull.comments:
                if comment.github_id == comment_id:
                    return pull, comment
        return None
