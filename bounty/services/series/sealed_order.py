"""Sealed order: within a series the submission that was sealed earlier is booked first.

A later one is measured meanwhile. Its reservation and its booking wait for the earlier ones, each at most `ORDER_WAIT`
after its own measurement ended. Whom it waits for is read from the database each time, so every look repeats.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.limits import EVENTS_WAIT, ORDER_WAIT
from bounty.models import (
    OPEN_RUN_STATES,
    Award,
    Dispute,
    DisputeState,
    GitHubRepository,
    NextStep,
    OutOfOrder,
    QuarantineCause,
    Run,
    RunKind,
    RunState,
    Submission,
    SubmissionState,
)
from bounty.services.series.best import STANDING
from bounty.services.series.likenesses import nearly_equal_earlier
from bounty.services.wakeups import wake_control

S = SubmissionState

GATE_OPEN = Q(state__in=[S.QUEUED, S.JUDGING]) | Q(state=S.JUDGED, next_step=NextStep.RESERVE)
BEING_JUDGED = GATE_OPEN | Q(state=S.CONFIRMING)
# Whatever may still be booked later, waited for or not.
MAY_BE_BOOKED = (
    BEING_JUDGED
    | Q(state=S.JUDGED, next_step=NextStep.AWAIT_ESCROW)
    | Q(
        state=S.JUDGED,
        verdict_kind__in=[VerdictKind.SUSPICIOUS.value, VerdictKind.INFRASTRUCTURE_ERROR.value],
    )
)


def in_series_of(submission: Submission) -> QuerySet[Submission]:
    """The other submissions of its series: the same lineage, suite and hardware, whatever the preset."""
    bounty = submission.bounty
    return Submission.objects.filter(
        bounty__lineage=bounty.lineage_id, bounty__suite=bounty.suite, bounty__hardware=bounty.hardware
    ).exclude(pk=submission.pk)


def sealed_earlier(submission: Submission) -> QuerySet[Submission]:
    """The submissions of its series that were sealed before it, in sealed order."""
    before = Q(sealed_at__lt=submission.sealed_at) | Q(sealed_at=submission.sealed_at, pk__lt=submission.pk)
    return in_series_of(submission).filter(before).order_by("sealed_at", "pk")


def waited_for(submission: Submission) -> QuerySet[Submission]:
    """Those sealed earlier that are being judged and have no booked award.

    Not: one with an open dispute, one that awaits escrow, and one whose run was taken from a quarantined runner.
    """
    return _without_obstacle(sealed_earlier(submission).filter(BEING_JUDGED))


def reservation_waits(submission: Submission, gate: Run) -> bool:
    """Whether an earlier submission to the same bounty may still reserve escrow before this one."""
    if gate.finished_at is None or _has_waited(gate.finished_at):
        return False
    return waited_for(submission).filter(GATE_OPEN, bounty=submission.bounty_id).exists()


def awaiting_escrow_before(submission: Submission) -> QuerySet[Submission]:
    """Those sealed earlier that wait for credits of the same bounty, in sealed order."""
    return sealed_earlier(submission).filter(
        bounty=submission.bounty_id, state=S.JUDGED, next_step=NextStep.AWAIT_ESCROW
    )


def booking_waits(submission: Submission) -> bool:
    """Whether a measured submission has to wait for one that was sealed earlier. A booked award has its place.

    It waits for those of its series, and for those of the lineage's other series that it nearly equals. And it waits for
    pull requests that may have been sealed earlier and are not known yet, while GitHub's events are known to be missing.
    """
    award = Award.objects.filter(submission=submission, state__in=STANDING)
    if award.exists():
        return False
    ended_at = _measured_at(submission)
    if ended_at is None or _has_waited(ended_at):
        return False
    if _events_are_missing(submission, ended_at):
        return True
    like_it = _without_obstacle(nearly_equal_earlier(submission).filter(BEING_JUDGED))
    return waited_for(submission).exists() or like_it.exists()


def _events_are_missing(submission: Submission, ended_at: datetime) -> bool:
    """Whether events of the lineage's repository are missing, at most `EVENTS_WAIT` from then and from the measurement."""
    begin = timezone.now() - EVENTS_WAIT
    if ended_at <= begin:
        return False
    missing = GitHubRepository.objects.filter(
        bindings__lineage=submission.bounty.lineage_id, events_missing_since__gt=begin
    )
    return missing.exists()


def note_out_of_order(submission: Submission) -> None:
    """Record whom this submission overtakes, in the transaction that books it first."""
    overtaken = sealed_earlier(submission).filter(MAY_BE_BOOKED | _is_disputed())
    for earlier in overtaken.exclude(_has_award()):
        OutOfOrder.objects.get_or_create(later=submission, earlier=earlier)


@dataclass(frozen=True, slots=True)
class SealedOrder:
    """What everybody may know of a submission's place: ids, in sealed order."""

    sealed_earlier: list[
        UUID
    ]  # not decided, and booked before it as far as it waits; empty once it is decided itself
    booked_before: list[UUID]  # sealed earlier, and not decided when this one was booked
    booked_after: list[UUID]  # sealed later, and booked while this one was not decided


def order_of(submission: Submission) -> SealedOrder:
    """The submission's place in its series. It does not tell how far anything is measured."""
    undecided = MAY_BE_BOOKED | _is_disputed()
    itself = Submission.objects.filter(MAY_BE_BOOKED, pk=submission.pk).exclude(_has_award())
    earlier: Iterable[Submission] = ()
    if not submission.bounty.is_for_a_bug and itself.exists():
        earlier = sealed_earlier(submission).filter(undecided).exclude(_has_award())
    return SealedOrder(
        [one.pk for one in earlier],
        [row.earlier_id for row in submission.booked_before.order_by("earlier__sealed_at")],
        [row.later_id for row in submission.booked_after.order_by("later__sealed_at")],
    )


def wake_later(submission: Submission) -> None:
    """Wake control workers for the measured submissions that may have waited for this one."""
    after = Q(sealed_at__gt=submission.sealed_at) | Q(sealed_at=submission.sealed_at, pk__gt=submission.pk)
    measured = Q(state=S.CONFIRMING) | (Q(state=S.JUDGED) & ~Q(next_step=NextStep.NONE))
    running = Exists(
        Run.objects.filter(submission=OuterRef("pk"), state__in=[RunState.QUEUED, *OPEN_RUN_STATES])
    )
    waiting = in_series_of(submission).filter(after & measured).exclude(running)
    for submission_id in waiting.order_by("sealed_at", "pk").values_list("pk", flat=True):
        wake_control(submission_id=submission_id)


def _without_obstacle(submissions: QuerySet[Submission]) -> QuerySet[Submission]:
    quarantined = Run.objects.filter(
        ~Q(runner__quarantine_cause=QuarantineCause.NONE),
        submission=OuterRef("pk"),
        state__in=[RunState.QUEUED, *OPEN_RUN_STATES],
        runner__isnull=False,
    )
    return submissions.exclude(_has_award()).exclude(_is_disputed()).exclude(Exists(quarantined))


def _has_award() -> Exists:
    return Exists(Award.objects.filter(submission=OuterRef("pk"), state__in=STANDING))


def _is_disputed() -> Exists:
    return Exists(Dispute.objects.filter(submission=OuterRef("pk"), state=DisputeState.OPEN))


def _measured_at(submission: Submission) -> datetime | None:
    """When the first complete measurement since its gate ended. Another price does not begin another wait."""
    award = submission.awards.filter(state="reserved").select_related("gate_run").first()
    if award is None:
        return None
    guards = submission.runs.filter(
        kind=RunKind.GUARD, state=RunState.FINISHED, queued_at__gt=award.gate_run.queued_at
    )
    return guards.order_by("finished_at").values_list("finished_at", flat=True).first()


def _has_waited(ended_at: datetime) -> bool:
    return ended_at + ORDER_WAIT <= timezone.now()
