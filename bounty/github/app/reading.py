"""JSON of GitHub -> facts. Pull requests, comments and reviews have one form in REST and in webhooks. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bounty.github.app.facts import AccountFacts, CommentFacts, PullRequestFacts, ReviewFacts

GHOST = AccountFacts(10_137, "ghost")  # GitHub shows it for an account that was deleted


def account_facts(data: dict[str, Any] | None) -> AccountFacts:
    """An account; GitHub's ghost if it was deleted."""
    if not data:
        return GHOST
    return AccountFacts(int(data["id"]), str(data["login"]), data.get("type") == "Bot")


def pull_request_facts(data: dict[str, Any]) -> PullRequestFacts:
    """A pull request. Its repository is that of its base. Lists lack `merged`, which follows from `merged_at`."""
    is_merged = bool(data.get("merged") or data.get("merged_at"))
    merger = data.get("merged_by") if is_merged else None
    return PullRequestFacts(
        repository_id=int(data["base"]["repo"]["id"]),
        number=int(data["number"]),
        author=account_facts(data.get("user")),
        title=data.get("title") or "",
        body=data.get("body") or "",
        branch=data["base"]["ref"],
        head_sha=data["head"]["sha"],
        state=data["state"],
        is_draft=bool(data.get("draft")),
        is_merged=is_merged,
        created_at=time_of(data["created_at"]),
        updated_at=time_of(data["updated_at"]),
        # Before a merge this field names a trial of GitHub's own.
        merge_sha=(data.get("merge_commit_sha") or "") if is_merged else "",
        merged_by=account_facts(merger) if merger else None,
    )


def comment_facts(
    data: dict[str, Any], *, repository_id: int, number: int, sent_by: AccountFacts | None = None
) -> CommentFacts:
    """A comment. Without a sender, that is its author: REST says nothing of who edited it, only that it is edited."""
    author = account_facts(data.get("user"))
    return CommentFacts(
        repository_id=repository_id,
        number=number,
        comment_id=int(data["id"]),
        author=author,
        sent_by=sent_by or author,
        body=data.get("body") or "",
        created_at=time_of(data["created_at"]),
        is_edited=data["updated_at"] != data["created_at"],
        is_by_app=author.is_bot or bool(data.get("performed_via_github_app")),
    )


def review_facts(data: dict[str, Any], *, repository_id: int, number: int) -> ReviewFacts | None:
    """A review, or None for one that is not submitted yet. REST writes its state in capitals, webhooks do not."""
    if not data.get("submitted_at"):
        return None
    return ReviewFacts(
        repository_id=repository_id,
        number=number,
        review_id=int(data["id"]),
        author=account_facts(data.get("user")),
        commit_sha=data.get("commit_id") or "",
        state=str(data["state"]).lower(),
        submitted_at=time_of(data["submitted_at"]),
    )


def time_of(text: str) -> datetime:
    """A time of GitHub's, with its zone."""
    return datetime.fromisoformat(text)
