"""What GitHub says of pull requests, written down: rows take newer facts only, and each head is seen once.

Facts come twice, late and out of order, from events and from polling alike.
"""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from bounty.github.app.facts import CommentFacts, PullRequestFacts
from bounty.github.people import BotAccount, account_of
from bounty.github.pulls.asking import client_of
from bounty.github.pulls.commands import commands_in
from bounty.github.pulls.naming import is_named_by_command, named_in
from bounty.github.repositories.addresses import MAX_BRANCH_CHARACTERS
from bounty.models import (
    Command,
    GitHubRepository,
    Head,
    HeadState,
    PullRequest,
    PullRequestState,
    RepositoryBinding,
)
from bounty.services.wakeups import wake_fetch, wake_pull_request
from gainshare.accounts.models import GitHubAccount

MAX_TITLE = 300


def see(facts: PullRequestFacts, *, received_at: datetime) -> PullRequest | None:
    """Write down the facts, if the pull request is to a bound branch or was. None for any other, and for a bot's.

    `received_at` is when the facts arrived here: it seals a head that is new, unless `sealed_when` says otherwise.
    """
    repository = GitHubRepository.objects.filter(pk=facts.repository_id).first()
    if repository is None:
        return None
    with transaction.atomic():
        pull = _locked(repository, facts.number)
        bound_at = _bound_at(repository, facts.branch)
        if pull is None:
            if bound_at is None or _is_over(facts, bound_at):
                return None
            pull = _created(repository, facts)
            if pull is None:
                return None
        elif facts.updated_at >= pull.updated_at:
            _write(pull, facts)
        if bound_at is not None:
            Head.objects.get_or_create(
                pull_request=pull,
                sha=facts.head_sha,
                defaults={"sealed_at": sealed_when(facts, received_at=received_at, bound_at=bound_at)},
            )
        wake_pull_request(pull_request_id=pull.pk)
    return pull


def sealed_when(facts: PullRequestFacts, *, received_at: datetime, bound_at: datetime) -> datetime:
    """When a new head was sealed: its pull request's `created_at` if nothing has happened since, else its receipt. Pure.

    Facts that are as old as the pull request name its first head, which was public then. Any other may have been pushed a
    moment ago. Never before the branch was bound, and never after the receipt.
    """
    is_first = facts.updated_at == facts.created_at
    return min(max(facts.created_at, bound_at), received_at) if is_first else received_at


def is_tied(facts: PullRequestFacts) -> bool:
    """Whether what is written down is as old as the facts, to the second, and says something else."""
    pull = PullRequest.objects.filter(repository=facts.repository_id, number=facts.number).first()
    if pull is None or pull.updated_at != facts.updated_at:
        return False
    said = _said(facts)
    return any(getattr(pull, name) != said[name] for name in ("state", "is_draft", "head_sha", "branch"))


def see_comment(facts: CommentFacts) -> int:
    """Write down the commands of a new comment; how many. Raises GitHubError if its pull request has to be asked for.

    Not read: what was edited, what somebody else than its author sent, bots, Apps, and mail.
    """
    if facts.is_edited or facts.is_by_app or facts.author.is_bot or facts.sent_by.is_bot:
        return 0
    if facts.sent_by.github_id != facts.author.github_id:
        return 0
    found = commands_in(facts.body)
    pull = _pull_of(facts) if found else None
    if pull is None:
        return 0
    with transaction.atomic():
        made = [
            Command.objects.get_or_create(
                comment_id=facts.comment_id,
                line=asked.line,
                defaults={
                    "pull_request": pull,
                    "github_id": facts.author.github_id,
                    "login": facts.author.login[:100],
                    "text": asked.text,
                },
            )[1]
            for asked in found
        ]
        wake_pull_request(pull_request_id=pull.pk)
    return sum(made)


def see_queue(repository_id: int, number: int, sha: str, *, received_at: datetime) -> None:
    """Write down the head that a merge queue tests, so that it gets a neutral check. It is never sealed or judged."""
    pull = PullRequest.objects.filter(repository=repository_id, number=number).first()
    if pull is None:
        return
    with transaction.atomic():
        Head.objects.get_or_create(
            pull_request=pull,
            sha=sha,
            defaults={"sealed_at": received_at, "state": HeadState.SEALED, "is_of_queue": True},
        )
        wake_pull_request(pull_request_id=pull.pk)


def wake_fetches(pull: PullRequest) -> None:
    """Have the branch of a merged pull request fetched for every lineage that is bound to it."""
    bound = RepositoryBinding.objects.filter(github=pull.repository_id, branch=pull.branch)
    for lineage in bound.values_list("lineage__name", flat=True):
        wake_fetch(lineage=lineage)


def _pull_of(facts: CommentFacts) -> PullRequest | None:
    """The comment's pull request; one whose event was lost is asked for. Raises GitHubError."""
    repository = (
        GitHubRepository.objects.select_related("installation").filter(pk=facts.repository_id).first()
    )
    if repository is None or not repository.bindings.exists():
        return None
    pull = PullRequest.objects.filter(repository=repository, number=facts.number).first()
    if pull is not None:
        return pull
    asked = client_of(repository).pull_request(repository.full_name, facts.number)
    return see(asked, received_at=timezone.now())


def _locked(repository: GitHubRepository, number: int) -> PullRequest | None:
    found = PullRequest.objects.select_for_update(no_key=True)
    return found.filter(repository=repository, number=number).first()


def _bound_at(repository: GitHubRepository, branch: str) -> datetime | None:
    """Since when a lineage is bound to the branch, or None."""
    bound = RepositoryBinding.objects.filter(github=repository, branch=branch).order_by("created_at")
    return bound.values_list("created_at", flat=True).first()


def _is_over(facts: PullRequestFacts, bound_at: datetime) -> bool:
    """Whether the pull request had ended before the branch was bound."""
    return facts.state != "open" and facts.updated_at < bound_at


def _created(repository: GitHubRepository, facts: PullRequestFacts) -> PullRequest | None:
    """The new row, or the one that another process made meanwhile; None for a bot's pull request."""
    try:
        author = account_of(facts.author)
    except BotAccount:
        return None
    pull, is_new = PullRequest.objects.get_or_create(
        repository=repository,
        number=facts.number,
        defaults={
            **_said(facts),
            "author": author,
            "opened_at": facts.created_at,
            "named": named_in(facts.body),
            "needs_judge_command": author.is_dormant and not _is_known(author),
        },
    )
    if not is_new and facts.updated_at >= pull.updated_at:
        _write(pull, facts)
    return pull


def _is_known(author: GitHubAccount) -> bool:
    """Whether a pull request of the author was judged before."""
    return Head.objects.filter(pull_request__author=author, submission__isnull=False).exists()


def _write(pull: PullRequest, facts: PullRequestFacts) -> None:
    """Write newer facts over what the row says."""
    said = _said(facts)
    if not is_named_by_command(pull):
        said["named"] = named_in(facts.body)
    PullRequest.objects.filter(pk=pull.pk, updated_at__lte=facts.updated_at).update(**said)
    pull.refresh_from_db()


def _said(facts: PullRequestFacts) -> dict[str, Any]:
    """The columns that GitHub's word fills."""
    state = PullRequestState.OPEN if facts.state == "open" else PullRequestState.CLOSED
    if facts.is_merged:
        state = PullRequestState.MERGED
    return {
        "title": facts.title[:MAX_TITLE],
        "branch": facts.branch
        if len(facts.branch) <= MAX_BRANCH_CHARACTERS
        else "",  # then none is bound to it
        "state": state,
        "is_draft": facts.is_draft,
        "head_sha": facts.head_sha,
        "merge_sha": facts.merge_sha,
        "merged_by_id": facts.merged_by.github_id if facts.merged_by else None,
        "updated_at": facts.updated_at,
    }
