"""Awards and the ledger: reserve, vest, void, reverse. Money and state change in one transaction.

The ledger's ids are derived from the award's subject and step, so that repeating a step cannot move money twice.
"""

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.models import (
    Award,
    AwardRole,
    AwardState,
    Bounty,
    Lineage,
    NextStep,
    ReviewDecision,
    RunKind,
    RunVerdict,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.rewards import required_reviewers, wanted_reservation
from bounty.services.bounties import available_escrow, follow_funds, step_id
from bounty.services.emergency import is_stopped
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base, wake_left_behind
from bounty.services.transitions import move, must_move, note
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger
from gainshare.ledger.errors import EscrowClosed, EscrowExhausted


def standing_award(submission: Submission) -> Award | None:
    """The author's award of the submission without its supplements, unless it is void."""
    return (
        standing_awards(submission).exclude(role__in=[AwardRole.REPRODUCTION, AwardRole.SUPPLEMENT]).first()
    )


def standing_awards(submission: Submission) -> QuerySet[Award]:
    """Every award of the submission that is not void: its author's, and for a bug the reproduction's, and supplements."""
    return submission.awards.exclude(state=AwardState.VOID).order_by("role")


def reserve(*, submission: Submission, gate: RunVerdict) -> bool:
    """Reserve escrow for a passed gate and order the confirmation. If the escrow is too small, reserve all of it.

    False if nothing could be done now: the escrow is empty (the submission then awaits escrow) or closed.
    """
    bounty = Bounty.objects.select_related("lineage").get(pk=submission.bounty_id)
    if bounty.escrow_returned_at is not None:
        _stop_waiting(submission, "the bounty was closed and its escrow was returned")
        return False
    wanted = wanted_reservation(
        rate_microcredits_per_nat=bounty.rate_microcredits_per_nat,
        estimate_log_ppm=max(gate.log_ppm_estimate or 0, gate.log_ppm_bound or 0, 1),
    )
    amount = min(wanted, available_escrow(bounty))
    if amount <= 0:
        _await_escrow(submission)
        follow_funds(bounty=bounty)
        return False
    reservation_id = step_id(gate.run_id, "reserve")
    try:
        with transaction.atomic():
            is_moved = move(
                submission,
                to=SubmissionState.CONFIRMING,
                reason=f"the gate passed; {amount} micro-credits are reserved",
                where=~Q(next_step=NextStep.NONE),  # it ended meanwhile
                next_step=NextStep.NONE,
            )
            if not is_moved:
                return True
            ledger.reserve_award(
                transfer_id=reservation_id,
                escrow_reference=bounty.escrow_reference,
                amount_microcredits=amount,
                reference=f"submission:{submission.pk}",
            )
            award = Award.objects.create(
                submission=submission,
                gate_run=gate.run,
                reservation_id=reservation_id,
                reserved_microcredits=amount,
                rate_microcredits_per_nat=bounty.rate_microcredits_per_nat,
            )
            note(award, old="", new=award.state, reason=f"{amount} micro-credits reserved")
            base = measured_base(bounty=bounty, of=submission)
            queue_run(submission=submission, kind=RunKind.CONFIRMATION, base=base, avoid_host_of=gate.run)
    except (EscrowExhausted, EscrowClosed):
        submission.refresh_from_db()  # another gate reserved it before the lock: read again
        return True
    follow_funds(bounty=bounty)
    fault_point("control.reserved")
    return True


def _await_escrow(submission: Submission) -> None:
    changed = Submission.objects.filter(
        pk=submission.pk, state=SubmissionState.JUDGED, next_step=NextStep.RESERVE
    ).update(next_step=NextStep.AWAIT_ESCROW)
    if changed:
        note(
            submission,
            old=submission.state,
            new=submission.state,
            reason="waits until the escrow has credits again",
        )


def _stop_waiting(submission: Submission, reason: str) -> None:
    changed = (
        Submission.objects.filter(pk=submission.pk, state=SubmissionState.JUDGED)
        .exclude(next_step=NextStep.NONE)
        .update(next_step=NextStep.NONE, verdict_reason=f"{submission.verdict_reason} No award: {reason}.")
    )
    if changed:
        note(submission, old=submission.state, new=submission.state, reason=f"no award: {reason}")


def void_award(*, submission: Submission, reason: str) -> None:
    """Return a reserved or unvested award to escrow. Inside the caller's transaction, after its own change."""
    for award in standing_awards(submission):
        _void(award, reason)


def _void(award: Award, reason: str) -> None:
    if award.state == AwardState.RESERVED:
        ledger.release_reservation(transfer_id=award.reservation_id)
    elif award.state == AwardState.UNVESTED and award.transfer_id is not None:
        ledger.reverse_award(
            transfer_id=award.transfer_id, reversal_id=step_id(award.pk, "void"), reason=reason
        )
    else:
        raise WrongState(f"An award that is {award.state} cannot be voided.")
    is_moved = move(award, to=AwardState.VOID, reason=reason, ended_at=timezone.now())
    assert is_moved, "an award changes only together with its submission"


def has_enough_acceptances(submission: Submission) -> bool:
    """Whether enough people have accepted this candidate for an award of this size."""
    given, needed = acceptances(submission)
    return given >= needed


def acceptances(submission: Submission) -> tuple[int, int]:
    """Number of people who have accepted this candidate, and number that an award of this size needs."""
    amounts = [award.amount_microcredits for award in standing_awards(submission)]
    assert amounts and None not in amounts, "a confirmed submission has its award"
    needed = required_reviewers(
        amount_microcredits=sum(filter(None, amounts)),
        min_reviewers=submission.bounty.min_reviewers,
        two_above_microcredits=submission.bounty.two_reviews_above_microcredits,
    )
    accepted = submission.reviews.filter(
        decision=ReviewDecision.ACCEPT, candidate_tree=submission.candidate_tree_id
    )
    return accepted.count(), needed


def vest(*, submission: Submission, reason: str) -> bool:
    """Make an accepted submission's award spendable. False if another caller has just done so, or while
    awards are stopped."""
    with transaction.atomic():
        if is_stopped(Switch.AWARDS):
            return False
        due = [(award, award.transfer_id) for award in standing_awards(submission)]
        if not due or any(transfer_id is None for _, transfer_id in due):
            raise WrongState("This submission has no award to vest.")
        if not move(submission, to=SubmissionState.VESTED, reason=reason):
            return False
        for award, transfer_id in due:
            assert transfer_id is not None
            ledger.vest_award(transfer_id=transfer_id)
            is_moved = move(award, to=AwardState.VESTED, reason=reason, vested_at=timezone.now())
            assert is_moved, "an award changes only together with its submission"
    fault_point("control.vested")
    return True


def reverse(*, actor: User, submission: Submission, reason: str) -> Submission:
    """Take a vested award back: unspent credits from its lot, the rest as a debt. A merge at the tip is undone."""
    if not actor.is_maintainer or submission.submitter_id == actor.pk:
        raise NotAllowed("Only a maintainer other than the author can reverse an award.")
    if submission.state == SubmissionState.REVERSED:
        return submission
    if submission.state != SubmissionState.VESTED:
        raise WrongState(f"Only a vested award can be reversed; this submission is {submission.state}.")
    if not reason.strip():
        raise BadRequest("Give a reason for the reversal; the author will read it.")
    with transaction.atomic():
        # The lineage's lock is taken first, as in merging and booking.
        Lineage.objects.select_for_update(no_key=True).get(pk=submission.bounty.lineage_id)
        submission.refresh_from_db()
        taken = list(standing_awards(submission))
        assert taken, "a vested submission has its award"
        must_move(submission, to=SubmissionState.REVERSED, reason=reason, actor=actor)
        for award in taken:
            assert award.transfer_id is not None, "a vested award was booked"
            if award.state != AwardState.RETURNED:  # its credits are back already
                ledger.reverse_award(
                    transfer_id=award.transfer_id, reversal_id=step_id(award.pk, "reverse"), reason=reason
                )
            move(award, to=AwardState.REVERSED, reason=reason, actor=actor, ended_at=timezone.now())
        _undo_merge(submission, actor)
        wake_left_behind(lineage_id=submission.bounty.lineage_id)
    follow_funds(bounty=submission.bounty)
    return submission


def _undo_merge(submission: Submission, actor: User) -> None:
    lineage = submission.bounty.lineage
    if submission.merged_at is None:
        return
    undone = Lineage.objects.filter(pk=lineage.pk, tip=submission.candidate_tree_id).update(
        tip=submission.base_tree_id
    )
    if undone:
        note(
            lineage,
            old=str(submission.candidate_tree_id),
            new=str(submission.base_tree_id),
            reason=f"submission {submission.pk} reversed",
            actor=actor,
        )
