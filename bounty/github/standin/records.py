"""What the stand-in remembers: accounts, repositories, pull requests, comments, reviews, check runs, installations."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

PERMISSIONS = {
    "checks": "write",
    "contents": "read",
    "issues": "write",
    "merge_queues": "read",
    "metadata": "read",
    "pull_requests": "write",
}
EVENTS = ("issue_comment", "merge_group", "pull_request", "pull_request_review", "push", "repository")


@dataclass(eq=False)
class Account:
    """A user, an organization or an App's bot. ``created_at`` is when it joined."""

    github_id: int
    login: str
    kind: str  # User, Organization or Bot
    created_at: datetime
    email: str = ""


@dataclass(eq=False)
class App:
    """The one GitHub App. Its private key is not here: the stand-in checks signatures as GitHub does."""

    github_id: int
    slug: str
    name: str
    owner: Account
    bot: Account
    public_key: str
    created_at: datetime
    webhook_secret: str
    hook_url: str
    client_id: str
    client_secret: str
    permissions: dict[str, str] = field(default_factory=lambda: dict(PERMISSIONS))
    events: list[str] = field(default_factory=lambda: list(EVENTS))


@dataclass(eq=False)
class Comment:
    """A comment of a pull request's conversation. ``reactions`` are (account, content) -> number."""

    github_id: int
    number: int
    author: Account
    body: str
    created_at: datetime
    updated_at: datetime
    is_by_app: bool = False
    association: str = "NONE"
    reactions: dict[tuple[int, str], int] = field(default_factory=dict)


@dataclass(eq=False)
class Review:
    """A review of one commit; ``state`` in the capitals of the REST API."""

    github_id: int
    author: Account
    commit_sha: str
    state: str
    body: str
    submitted_at: datetime
    association: str = "NONE"


@dataclass(eq=False)
class CheckRun:
    """A check run of the App."""

    github_id: int
    name: str
    head_sha: str
    external_id: str
    status: str
    started_at: datetime | None
    completed_at: datetime | None = None
    conclusion: str | None = None
    details_url: str | None = None
    output: dict[str, Any] = field(default_factory=dict)
    changes: int = 0


@dataclass(eq=False)
class PullRequest:
    """A pull request from ``branch`` of ``source`` into ``base`` of ``repository``."""

    github_id: int
    number: int
    repository: Repository
    source: Repository
    branch: str
    base: str
    author: Account
    title: str
    body: str
    head_sha: str
    base_sha: str
    created_at: datetime
    updated_at: datetime
    is_draft: bool = False
    state: str = "open"
    closed_at: datetime | None = None
    merged_at: datetime | None = None
    merge_sha: str | None = None
    merged_by: Account | None = None
    is_mergeable: bool | None = None
    comments: list[Comment] = field(default_factory=list)
    reviews: list[Review] = field(default_factory=list)

    @property
    def is_merged(self) -> bool:
        return self.merged_at is not None


@dataclass(eq=False)
class Repository:
    """A repository and its bare git folder. ``roles`` are account -> admin, maintain, write, triage or read."""

    github_id: int
    owner: Account
    name: str
    folder: Path
    created_at: datetime
    default_branch: str = "main"
    parent: Repository | None = None
    is_private: bool = False
    roles: dict[int, str] = field(default_factory=dict)
    pulls: dict[int, PullRequest] = field(default_factory=dict)
    checks: list[CheckRun] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        return f"{self.owner.login}/{self.name}"

    def role_of(self, account: Account) -> str:
        """The account's role; everybody may read a public repository."""
        if account is self.owner:
            return "admin"
        return self.roles.get(account.github_id, "none" if self.is_private else "read")


@dataclass(eq=False)
class Installation:
    """An installation of the App. A removed one is answered as GitHub answers for what is not there."""

    github_id: int
    account: Account
    repositories: list[Repository]
    created_at: datetime
    permissions: dict[str, str] = field(default_factory=lambda: dict(PERMISSIONS))
    suspended_at: datetime | None = None
    is_removed: bool = False


@dataclass(frozen=True)
class Token:
    """An installation's or a user's token."""

    text: str
    expires_at: datetime | None
    installation: Installation | None = None
    user: Account | None = None
    scopes: str = ""
    permissions: dict[str, str] = field(default_factory=dict)
    repository_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Grant:
    """A code of the OAuth flow: used once, within ten minutes."""

    user: Account
    redirect_uri: str
    scopes: str
    challenge: str
    expires_at: datetime


@dataclass(frozen=True)
class Recorded:
    """A request that the stand-in got and what it answered. Credentials are not kept."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    status: int
    answer: Any
    at: datetime
