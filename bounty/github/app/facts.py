"""What GitHub says, as plain facts: the same from a webhook and from the REST API. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """An account of GitHub. Only its number finds anybody; its name may be another one tomorrow."""

    github_id: int
    login: str
    is_bot: bool = False


@dataclass(frozen=True, slots=True)
class PullRequestFacts:
    """A pull request. ``state`` is open or closed; a merged one is closed and has a merge commit."""

    repository_id: int
    number: int
    author: AccountFacts
    title: str
    body: str
    branch: str  # that it is to be merged into
    head_sha: str
    state: str
    is_draft: bool
    is_merged: bool
    created_at: datetime
    updated_at: datetime
    merge_sha: str = ""
    merged_by: AccountFacts | None = None


@dataclass(frozen=True, slots=True)
class CommentFacts:
    """A comment of a pull request's conversation. ``sent_by`` is who acted: for a new comment that is its author."""

    repository_id: int
    number: int  # of the pull request
    comment_id: int
    author: AccountFacts
    sent_by: AccountFacts
    body: str
    created_at: datetime
    is_edited: bool = False
    is_by_app: bool = False  # written through an App or by e-mail integration, which no command is read from


@dataclass(frozen=True, slots=True)
class ReviewFacts:
    """A review of one commit. ``state`` is GitHub's: approved, changes_requested, commented, dismissed."""

    repository_id: int
    number: int
    review_id: int
    author: AccountFacts
    commit_sha: str
    state: str
    submitted_at: datetime


@dataclass(frozen=True, slots=True)
class CheckRunFields:
    """What a check run shows. ``status``: queued, in_progress or completed; ``conclusion`` only with the last one.

    Texts are Markdown, whose size GitHub limits: `title` to 255 characters, the others to 65,535.
    """

    name: str
    status: str
    title: str
    summary: str
    text: str = ""
    conclusion: str = ""  # success, failure, neutral, cancelled, action_required, timed_out
    details_url: str = ""


class GitHubError(Exception):
    """GitHub could not do it, or could not be reached. The message says why, without any secret."""


class GitHubBusy(GitHubError):
    """A limit of GitHub was reached: nothing may be sent before ``until``."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"GitHub takes no more requests until {until:%Y-%m-%d %H:%M:%S} UTC.")
        self.until = until


class GitHubGone(GitHubError):
    """What was named is no longer there, or the App may no longer see it."""


class GitHubRefused(GitHubError):
    """GitHub will never take this request: sending it again changes nothing."""
