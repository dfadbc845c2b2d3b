"""Periodic repair from the database: lost leases and messages, unfinished steps, review windows and deadlines.

Repairs are independent: one that fails is logged, and the others still run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from bounty.limits import WAKE_AGAIN_AFTER
from bounty.models import (
    OPEN_RUN_STATES,
    Bounty,
    BountyState,
    NextStep,
    Run,
    RunKind,
    Runner,
    RunnerState,
    RunState,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.repricing import advance_repricings, unfinished_repricings
from bounty.services.bounties import close_bounty, follow_funds, return_leftover
from bounty.services.emergency import is_stopped
from bounty.services.merges import merge_waiting
from bounty.services.reproductions import settle, unsettled_reproductions
from bounty.services.runners.maintenance import settle_drains
from bounty.services.runs.lifecycle import lose_run, recall_all, recall_untrusted
from bounty.services.runs.queues import own_order, waiting_order
from bounty.services.series.best import MAY_BE_LEFT_BEHIND
from bounty.services.wakeups import wake_runner

logger = logging.getLogger(__name__)

WAKE_AT_LEAST_EVERY = timedelta(seconds=30)


@dataclass
class Repairs:
    """Number of repairs of each kind."""

    lost: int = 0
    recalled: int = 0
    drained: int = 0
    merged: int = 0
    woken: int = 0
    advanced: int = 0
    closed: int = 0
    failed: list[str] = field(default_factory=list)

    def attempt(self, what: str, action: Callable[[], object]) -> bool:
        try:
            return bool(action())
        except Exception:  # one broken row must not block the others; it is logged and tried again
            logger.exception("could not repair %s", what)
            self.failed.append(what)
            return False


def reconcile_runs() -> Repairs:
    """Repair everything that may have been left unfinished, once."""
    repairs = Repairs()
    now = timezone.now()
    _lose_expired(repairs, now)
    _settle(repairs)
    _reproduce(repairs)
    _advance(repairs, now)
    _reprice(repairs)
    _close(repairs, now)
    _wake(repairs, now)
    return repairs


def _lose_expired(repairs: Repairs, now: datetime) -> None:
    for run in Run.objects.filter(state__in=OPEN_RUN_STATES, lease_expires_at__lt=now):
        repairs.lost += repairs.attempt(
            f"run {run.pk}", partial(lose_run, run=run, reason="its lease ran out without a heartbeat")
        )


def _settle(repairs: Repairs) -> None:
    """Finish what was requested and could not be done at once, or was left unfinished."""

    def counted(name: str, action: Callable[[], int]) -> None:
        def act() -> bool:
            setattr(repairs, name, action())
            return True

        repairs.attempt(name, act)

    counted("recalled", _recall_forgotten)
    counted("drained", settle_drains)
    counted("merged", merge_waiting)


def _recall_forgotten() -> int:
    """Take back runs that a process left with runners when it died during a stop or a quarantine."""
    if is_stopped(Switch.JUDGING):
        return recall_all(reason="judging was stopped")
    return recall_untrusted()


def _reproduce(repairs: Repairs) -> None:
    """Process reproductions whose run has its verdict, and bugs that may adopt their first one."""
    for reproduction_id in unsettled_reproductions():
        repairs.attempt(f"reproduction {reproduction_id}", partial(settle, reproduction_id=reproduction_id))


def _advance(repairs: Repairs, now: datetime) -> None:
    """Advance submissions with a due step, in sealed order."""
    has_new_verdict = Q(
        state__in=[SubmissionState.QUEUED, SubmissionState.JUDGING, SubmissionState.CONFIRMING]
    ) & ~Q(runs__state__in=[RunState.QUEUED, *OPEN_RUN_STATES])
    to_reserve = Q(state=SubmissionState.JUDGED) & ~Q(next_step=NextStep.NONE)
    merged = Q(state=SubmissionState.ACCEPTED, merged_at__isnull=False)
    in_window = Q(
        state__in=[SubmissionState.CONFIRMED, SubmissionState.ACCEPTED], bounty__review_window_s__isnull=False
    )
    checked = Q(state__in=[SubmissionState.CONFIRMED, SubmissionState.ACCEPTED], runs__kind=RunKind.RECHECK)
    copies = Q(state=SubmissionState.CHECKED)
    waiting = Submission.objects.filter(
        copies | has_new_verdict | to_reserve | merged | in_window | checked | MAY_BE_LEFT_BEHIND
    )
    for submission in waiting.order_by("sealed_at").distinct():
        repairs.advanced += repairs.attempt(f"submission {submission.pk}", partial(_advance_one, submission))


def _reprice(repairs: Repairs) -> None:
    """Price gains again whose base proved slow."""
    for slow_award_id in unfinished_repricings():
        repairs.attempt(
            f"prices after award {slow_award_id}",
            partial(advance_repricings, slow_award_id=slow_award_id),
        )


def _advance_one(before: Submission) -> bool:
    after = advance_submission(submission_id=before.pk)
    return (after.state, after.next_step) != (before.state, before.next_step)


def _close(repairs: Repairs, now: datetime) -> None:
    for bounty in Bounty.objects.exclude(state=BountyState.CLOSED).filter(deadline_at__lte=now):
        repairs.closed += repairs.attempt(
            f"bounty {bounty.pk}",
            partial(close_bounty, bounty_id=bounty.pk, reason="the deadline passed"),
        )
    for bounty in Bounty.objects.exclude(state=BountyState.CLOSED):
        repairs.attempt(f"bounty {bounty.pk}", partial(follow_funds, bounty=bounty))
    for bounty in Bounty.objects.filter(state=BountyState.CLOSED, escrow_returned_at=None):
        repairs.attempt(f"bounty {bounty.pk}", partial(return_leftover, bounty_id=bounty.pk))


def _wake(repairs: Repairs, now: datetime) -> None:
    """Send wake-ups again for the first runs of each queue, as many as there are idle runners."""
    if is_stopped(Switch.JUDGING):
        return
    busy = Run.objects.filter(state__in=OPEN_RUN_STATES).values("runner")
    idle = Runner.objects.filter(state__in=[RunnerState.ACTIVE, RunnerState.QUARANTINED]).exclude(pk__in=busy)
    heads: set[UUID] = set()
    for hardware in set(idle.values_list("hardware", flat=True)):
        owns = [own_order(runner)[:1] for runner in idle.filter(hardware=hardware)]
        heads |= {run_id for own in owns for run_id in own}
        heads |= set(waiting_order(hardware=hardware)[: sum(not own for own in owns)])
    for run in Run.objects.filter(pk__in=heads, state=RunState.QUEUED):
        pause = min(max((now - run.queued_at) / 10, WAKE_AGAIN_AFTER), WAKE_AT_LEAST_EVERY)
        due = Q(woken_at=None) | Q(woken_at__lte=now - pause)
        if Run.objects.filter(due, pk=run.pk).update(woken_at=now):
            wake_runner(run_id=run.pk, hardware=run.hardware, resent_at=now)
            repairs.woken += 1
