"""Deliveries: kept once by GitHub's id, worked off by a control worker, and tried again after a failure.

Each handler may be repeated, and is given whatever GitHub said in whatever order: rows take newer facts only.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.github.app.facts import GitHubError
from bounty.github.app.status import ask_check
from bounty.github.events.parsing import (
    NotUnderstood,
    comment_facts,
    pull_request_facts,
    push_facts,
    queue_facts,
    review_facts,
)
from bounty.github.merging.acceptance import see_review
from bounty.github.merging.recognition import pushed
from bounty.github.pulls.asking import newest
from bounty.github.pulls.seeing import is_tied, see, see_comment, see_queue
from bounty.models import Delivery, GitHubRepository
from bounty.services.wakeups import wake_delivery
from gainshare.accounts.errors import DomainError

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 10
KEPT_FOR = timedelta(days=30)
AGAIN_AFTER = timedelta(seconds=30)  # a delivery that is not worked off by then is woken again


def receive(*, delivery_id: UUID, event: str, payload: dict[str, Any]) -> bool:
    """Keep a delivery whose signature held, and wake a control worker. False for one that is there already."""
    action = payload.get("action")
    with transaction.atomic():
        _, is_new = Delivery.objects.get_or_create(
            pk=delivery_id,
            defaults={
                "event": event[:60],
                "action": action[:60] if isinstance(action, str) else "",
                "payload": payload,
            },
        )
        if is_new:
            wake_delivery(delivery_id=delivery_id)
    fault_point("events.received")
    return is_new


def process_delivery(*, delivery_id: UUID) -> None:
    """Work off one delivery, if it is there and not done. A failure is noted with it, and beat tries again."""
    delivery = Delivery.objects.filter(pk=delivery_id, done_at=None, attempts__lt=MAX_ATTEMPTS).first()
    if delivery is None:
        return
    row = Delivery.objects.filter(pk=delivery_id, done_at=None)
    try:
        problem = _handled(delivery)
    except Exception as error:  # a handler's fault must not lose the delivery; it is logged and tried again
        row.update(attempts=F("attempts") + 1, problem=_words(error))
        if not isinstance(error, (GitHubError, DomainError)):
            logger.exception("could not work off delivery %s (%s)", delivery.pk, delivery.event)
        return
    fault_point("events.handled")
    row.update(attempts=F("attempts") + 1, problem=problem, done_at=timezone.now())


def _handled(delivery: Delivery) -> str:
    """Empty, or why the payload told nothing."""
    try:
        HANDLERS[delivery.event](delivery)
    except NotUnderstood as error:
        return f"The payload was not understood: {error}."
    return ""


def _words(error: Exception) -> str:
    known = isinstance(error, (GitHubError, DomainError))
    return str(error)[:1000] if known else f"{type(error).__name__}: see the worker's log."


def wake_waiting() -> int:
    """Wake workers for deliveries that a lost message, a killed worker or a failure left behind; their number."""
    now = timezone.now()
    late = Delivery.objects.filter(done_at=None, attempts__lt=MAX_ATTEMPTS, received_at__lt=now - AGAIN_AFTER)
    waiting = list(late.values_list("pk", flat=True)[:1000])
    for delivery_id in waiting:
        wake_delivery(delivery_id=delivery_id)
    return len(waiting)


def forget_old() -> int:
    """Delete deliveries that were done, or given up, long ago; their number. GitHub repeats none after three days."""
    over = Q(done_at__isnull=False) | Q(attempts__gte=MAX_ATTEMPTS)
    return Delivery.objects.filter(over, received_at__lt=timezone.now() - KEPT_FOR).delete()[0]


def _pull_request(delivery: Delivery) -> None:
    facts = pull_request_facts(delivery.payload)
    see(newest(facts) if is_tied(facts) else facts, received_at=delivery.received_at)


def _comment(delivery: Delivery) -> None:
    facts = comment_facts(delivery.payload)
    if facts is not None:
        see_comment(facts)


def _queue(delivery: Delivery) -> None:
    facts = queue_facts(delivery.payload)
    if facts is not None:
        see_queue(facts.repository_id, facts.number, facts.head_sha, received_at=delivery.received_at)


def _push(delivery: Delivery) -> None:
    """A push to a bound branch has the branch fetched now, and who pushed is written down."""
    facts = push_facts(delivery.payload)
    repository = None if facts is None else GitHubRepository.objects.filter(pk=facts.repository_id).first()
    if facts is None or repository is None or not repository.bindings.filter(branch=facts.branch).exists():
        return
    commits = [facts.commit] if facts.commit else []
    pushed(repository=repository, branch=facts.branch, commits=commits, github_id=facts.pusher_id)


def _review(delivery: Delivery) -> None:
    facts = review_facts(delivery.payload)
    if facts is not None:
        see_review(facts)


def _installation(_: Delivery) -> None:
    """Installed, suspended, removed, opened to other repositories, renamed: GitHub is asked how it is now."""
    ask_check()


HANDLERS: Mapping[str, Callable[[Delivery], None]] = {
    "issue_comment": _comment,
    "installation": _installation,
    "installation_repositories": _installation,
    "merge_group": _queue,
    "pull_request": _pull_request,
    "pull_request_review": _review,
    "push": _push,
    "repository": _installation,
}
KNOWN = frozenset(HANDLERS)
