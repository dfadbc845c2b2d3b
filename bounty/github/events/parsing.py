"""Payloads of GitHub's webhooks, and objects of its REST API, as facts. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bounty.github.app.facts import AccountFacts, CommentFacts, PullRequestFacts

SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
QUEUE_REF = re.compile(r"refs/heads/gh-readonly-queue/.+/pr-([1-9][0-9]{0,9})-(?:[0-9a-f]{40}|[0-9a-f]{64})")
MAX_NUMBER = 2**31 - 1  # of a pull request, as it is kept


class NotUnderstood(ValueError):
    """A payload that lacks what such a payload has. The message names what is missing."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """The head that a merge queue tests: the branch with one or more pull requests, of which `number` is the last."""

    repository_id: int
    number: int
    head_sha: str


@dataclass(frozen=True, slots=True)
class PushFacts:
    """A push to a branch."""

    repository_id: int
    branch: str
    commit: str  # empty where the branch was deleted


def pull_request_facts(payload: Any) -> PullRequestFacts:
    """The pull request of a `pull_request` event. Raises NotUnderstood."""
    return facts_of_pull_request(_of(payload, "pull_request"), repository_id=repository_id_of(payload))


def facts_of_pull_request(found: Any, *, repository_id: int) -> PullRequestFacts:
    """A pull request as the REST API and the events have it. Raises NotUnderstood."""
    is_merged = bool(found.get("merged") or found.get("merged_at")) if isinstance(found, dict) else False
    merged_by = found.get("merged_by") if isinstance(found, dict) else None
    return PullRequestFacts(
        repository_id=repository_id,
        number=number_of(found),
        author=account_facts(_of(found, "user")),
        title=_text(found, "title"),
        body=_text(found, "body", or_null=True),
        branch=_text(_of(found, "base"), "ref"),
        head_sha=_sha(_of(found, "head"), "sha"),
        state="open" if _text(found, "state") == "open" else "closed",
        is_draft=bool(found.get("draft")),
        is_merged=is_merged,
        created_at=_time(found, "created_at"),
        updated_at=_time(found, "updated_at"),
        merge_sha=_sha(found, "merge_commit_sha") if is_merged and found.get("merge_commit_sha") else "",
        merged_by=account_facts(merged_by) if is_merged and merged_by else None,
    )


def comment_facts(payload: Any) -> CommentFacts | None:
    """The comment of an `issue_comment` event; None for an issue's. Raises NotUnderstood."""
    issue = _of(payload, "issue")
    if not issue.get("pull_request"):
        return None
    comment = _of(payload, "comment")
    created_at = _time(comment, "created_at")
    return CommentFacts(
        repository_id=repository_id_of(payload),
        number=number_of(issue),
        comment_id=_number(comment, "id"),
        author=account_facts(_of(comment, "user")),
        sent_by=account_facts(_of(payload, "sender")),
        body=_text(comment, "body", or_null=True),
        created_at=created_at,
        is_edited=_text(payload, "action") != "created",
        is_by_app=bool(comment.get("performed_via_github_app")),
    )


def queue_facts(payload: Any) -> QueueFacts | None:
    """The head of a `merge_group` event; None where its branch names no pull request. Raises NotUnderstood."""
    group = _of(payload, "merge_group")
    named = QUEUE_REF.fullmatch(_text(group, "head_ref"))
    if named is None or int(named[1]) > MAX_NUMBER:
        return None
    return QueueFacts(repository_id_of(payload), int(named[1]), _sha(group, "head_sha"))


def push_facts(payload: Any) -> PushFacts | None:
    """The push of a `push` event; None for one of a tag. Raises NotUnderstood."""
    ref = _text(payload, "ref")
    if not ref.startswith("refs/heads/"):
        return None
    commit = "" if payload.get("deleted") else _sha(payload, "after")
    return PushFacts(repository_id_of(payload), ref.removeprefix("refs/heads/"), commit)


def account_facts(found: Any) -> AccountFacts:
    """An account: `user`, `sender`, `merged_by` and so on. Raises NotUnderstood, also for a deleted account."""
    login = _text(found, "login")
    return AccountFacts(
        github_id=_number(found, "id"),
        login=login,
        is_bot=found.get("type") == "Bot" or login.endswith("[bot]"),
    )


def repository_id_of(payload: Any) -> int:
    """GitHub's number of the payload's repository. Raises NotUnderstood."""
    return _number(_of(payload, "repository"), "id")


def number_of(found: Any) -> int:
    """The number of a pull request or issue in its repository. Raises NotUnderstood."""
    number = _number(found, "number")
    if not 0 < number <= MAX_NUMBER:
        raise NotUnderstood("its number is none that a pull request has")
    return number


def _of(found: Any, name: str) -> dict[str, Any]:
    part = found.get(name) if isinstance(found, dict) else None
    if not isinstance(part, dict):
        raise NotUnderstood(f"it has no {name}")
    return part


def _text(found: Any, name: str, *, or_null: bool = False) -> str:
    value = found.get(name) if isinstance(found, dict) else None
    if value is None and or_null:
        return ""
    if not isinstance(value, str):
        raise NotUnderstood(f"its {name} is no text")
    return value


def _number(found: Any, name: str) -> int:
    value = found.get(name) if isinstance(found, dict) else None
    if type(value) is not int or not 0 < value < 2**63:
        raise NotUnderstood(f"its {name} is no number")
    return value


def _sha(found: Any, name: str) -> str:
    value = _text(found, name)
    if not SHA.fullmatch(value):
        raise NotUnderstood(f"its {name} is no commit")
    return value


def _time(found: Any, name: str) -> datetime:
    try:
        value = datetime.fromisoformat(_text(found, name))
    except ValueError:
        raise NotUnderstood(f"its {name} is no time") from None
    if value.tzinfo is None:
        raise NotUnderstood(f"its {name} has no time zone")
    return value
