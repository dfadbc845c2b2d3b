"""Finds what GitHub's events did not tell, by asking; without a public address that is the only way pull requests are seen.

Each repository is asked by itself: one that cannot be read does not keep the others waiting. While one cannot be, or its
deliveries are not worked off, its events count as missing and bookings in its series wait a while.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.github.app.client import Client
from bounty.github.app.facts import GitHubError, PullRequestFacts
from bounty.github.events.deliveries import MAX_ATTEMPTS, forget_old, wake_waiting
from bounty.github.merging import reconciler as merging
from bounty.github.merging.acceptance import see_review
from bounty.github.people import return_unclaimed
from bounty.github.pulls.asking import client_of
from bounty.github.pulls.seeing import see, see_comment, wake_fetches
from bounty.models import (
    CommandState,
    Delivery,
    GitHubRepository,
    HeadState,
    PullRequest,
    PullRequestState,
    RepositoryBinding,
)
from bounty.services.wakeups import wake_pull_request

logger = logging.getLogger(__name__)

LATE = timedelta(minutes=1)  # a delivery that is not worked off by then tells that others are missing, too
OVERLAP = timedelta(minutes=10)


def reconcile() -> None:
    """Repair what lost events, messages and processes left behind, once."""
    _attempt("deliveries", wake_waiting)
    _attempt("old deliveries", forget_old)
    if settings.GITHUB_APP_ID:
        bound = GitHubRepository.objects.filter(bindings__isnull=False).select_related("installation")
        for repository in bound.distinct():
            _attempt(str(repository), partial(poll, repository))
    _attempt("pull requests", wake_unfinished)
    _attempt("merges", merging.reconcile)
    _attempt("unclaimed awards", return_unclaimed)


def poll(repository: GitHubRepository) -> None:
    """Ask for the repository's pull requests, and write down what is new. A failure is noted as events that are missing."""
    began = timezone.now()
    row = GitHubRepository.objects.filter(pk=repository.pk)
    try:
        client = client_of(repository)
        answer = client.open_pull_requests(
            repository.full_name, etag=repository.etag, since=_changed_since(repository)
        )
        if answer is not None:
            found, etag = answer
            for facts in found:
                _take(client, repository, facts, began)
            fault_point("events.polled")
            row.update(etag=etag[:200])
    except GitHubError as error:
        logger.warning("could not ask GitHub about %s: %s", repository, error)
        row.filter(events_missing_since=None).update(events_missing_since=began)
        return
    row.update(polled_at=began, events_missing_since=_oldest_waiting(repository, before=began - LATE))


def wake_unfinished() -> int:
    """Wake workers for pull requests that have something to do; their number."""
    todo = (
        Q(heads__state__in=[HeadState.SEEN, HeadState.WAITING], heads__is_of_queue=False)
        | Q(commands__state=CommandState.WAITING)
        | Q(commands__is_acknowledged=False)
    )
    waiting: list[UUID] = list(PullRequest.objects.filter(todo).distinct().values_list("pk", flat=True))
    for pull_request_id in waiting:
        wake_pull_request(pull_request_id=pull_request_id)
    return len(waiting)


def _take(client: Client, repository: GitHubRepository, facts: PullRequestFacts, began: datetime) -> None:
    """Write down one pull request, and the comments that are new since it was asked about last."""
    pull = see(facts, received_at=began)
    if pull is None or (pull.comments_read_at is not None and facts.updated_at <= pull.comments_read_at):
        return
    since = pull.comments_read_at or max(pull.opened_at, _bound_at(repository))
    for comment in client.comments(repository.full_name, facts.number, since=since):
        if comment.created_at >= since:
            see_comment(comment)
    if pull.heads.filter(submission__isnull=False).exists():
        for review in client.reviews(repository.full_name, facts.number):
            see_review(review)
    if pull.state == PullRequestState.MERGED:
        wake_fetches(pull)
    PullRequest.objects.filter(pk=pull.pk).update(comments_read_at=facts.updated_at)


def _changed_since(repository: GitHubRepository) -> datetime:
    """From when on changes may not be known: GitHub's clock is not ours, and its lists may be behind."""
    known = repository.polled_at
    return _bound_at(repository) if known is None else known - OVERLAP


def _bound_at(repository: GitHubRepository) -> datetime:
    return min(
        RepositoryBinding.objects.filter(github=repository).values_list("created_at", flat=True),
        default=timezone.now(),
    )


def _oldest_waiting(repository: GitHubRepository, *, before: datetime) -> datetime | None:
    """When the repository's oldest delivery came that is not worked off in time, if there is one."""
    waiting = Delivery.objects.filter(
        done_at=None,
        attempts__lt=MAX_ATTEMPTS,
        received_at__lt=before,
        payload__repository__id=repository.pk,
    )
    return waiting.order_by("received_at").values_list("received_at", flat=True).first()


def _attempt(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except Exception:  # one that is broken must not block the others; it is logged and tried again
        logger.exception("could not reconcile %s", what)
