"""Payloads of GitHub's webhooks as facts. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bounty.github.app import reading
from bounty.github.app.facts import CommentFacts, PullRequestFacts, ReviewFacts

SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
QUEUE_REF = re.compile(r"refs/heads/gh-readonly-queue/.+/pr-([1-9][0-9]{0,9})-(?:[0-9a-f]{40}|[0-9a-f]{64})")
MAX_NUMBER = 2**31 - 1  # of a pull request, as it is kept
Facts = TypeVar("Facts")


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
    pusher_id: int  # GitHub's number of who pushed


def pull_request_facts(payload: Any) -> PullRequestFacts:
    """The pull request of a `pull_request` event. Raises NotUnderstood."""
    found, repository_id = _of(payload, "pull_request"), repository_id_of(payload)
    number_of(found)
    facts = _read(lambda: reading.pull_request_facts(found), "pull request")
    if facts.repository_id != repository_id:
        raise NotUnderstood("its pull request is to another repository")
    if not all(isinstance(text, str) for text in (facts.title, facts.body, facts.branch)):
        raise NotUnderstood("its pull request has no text where one is expected")
    for sha in (facts.head_sha, facts.merge_sha):
        if sha and not SHA.fullmatch(sha):
            raise NotUnderstood("its pull request names no commit")
    return facts


def comment_facts(payload: Any) -> CommentFacts | None:
    """The comment of an `issue_comment` event; None for an issue's. Raises NotUnderstood.

    Any other event than the creation tells of an edit: no command is read from it.
    """
    issue = _of(payload, "issue")
    if not issue.get("pull_request"):
        return None
    facts = _read(
        lambda: reading.comment_facts(
            _of(payload, "comment"),
            repository_id=repository_id_of(payload),
            number=number_of(issue),
            sent_by=reading.account_facts(_of(payload, "sender")),
        ),
        "comment",
    )
    if not isinstance(facts.body, str):
        raise NotUnderstood("its comment has no text")
    return replace(facts, is_edited=facts.is_edited or payload.get("action") != "created")


def review_facts(payload: Any) -> ReviewFacts | None:
    """The review of a `pull_request_review` event; None for one that is not submitted. Raises NotUnderstood.

    The event says that a review was dismissed, whatever its state says.
    """
    number = number_of(_of(payload, "pull_request"))
    facts = _read(
        lambda: reading.review_facts(
            _of(payload, "review"), repository_id=repository_id_of(payload), number=number
        ),
        "review",
    )
    if facts is not None and payload.get("action") == "dismissed":
        return replace(facts, state="dismissed")
    return facts


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
    pusher = _read(lambda: reading.account_facts(_of(payload, "sender")), "push")
    return PushFacts(repository_id_of(payload), ref.removeprefix("refs/heads/"), commit, pusher.github_id)


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


def _text(found: Any, name: str) -> str:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, str):
        raise NotUnderstood(f"its {name} is no text")
    return value


def _number(found: Any, name: str) -> int:
    value = found.get(name) if isinstance(found, dict) else None
    if type(value) is not int or not 0 < value < 2**63:
        raise NotUnderstood(f"its {name} is not a number")
    return value


def _sha(found: Any, name: str) -> str:
    value = _text(found, name)
    if not SHA.fullmatch(value):
        raise NotUnderstood(f"its {name} is no commit")
    return value


def _read(read: Callable[[], Facts], what: str) -> Facts:
    """What `read` returns. Raises NotUnderstood where something is missing, of another kind, or no time."""
    try:
        facts = read()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, NotUnderstood):
            raise
        raise NotUnderstood(f"its {what} lacks what one has ({error})") from None
    return facts
