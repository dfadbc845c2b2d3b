"""Awards and the ledger: reserve, vest, void, reverse. Money and state change in one transaction.

The ledger's ids are derived from the award's subject and step, so that repeating a step cannot move money twice.
"""

from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.models import (
    COUNTING,
    ApprovalState,
    Award,
    AwardRole,
    AwardState,
    Bounty,
    Lineage,
    NextStep,
    ReviewDecision,
    RunKind,
    RunVerdict,
    StateChange,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.rewards import required_reviewers, wanted_reservation
from bounty.services.awards.unmeasured import payees, unaccepted_paths
from bounty.services.bounties import available_escrow, follow_funds, step_id
from bounty.services.emergency import is_stopped
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base, series_awards, wake_left_behind
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
    accepted = accepted.exclude(approval__state=ApprovalState.DISMISSED)  # taken back on GitHub
    # Who was not paid when they accepted may be by now: accounts of GitHub are claimed later.
    return accepted.exclude(reviewer__in=payees(submission)).count(), needed


def vest(*, submission: Submission, reason: str) -> bool:
    """Make an accepted submission's award spendable. False if another caller has just done so, while awards are
    stopped, or while its pull request changes files outside of the folder that no acceptance has named."""
    with transaction.atomic():
        if is_stopped(Switch.AWARDS) or unaccepted_paths(submission):
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
                    transfer_id=award.transfer_id, reversal_id=_reversal_id(award), reason=reason
                )
            move(award, to=AwardState.REVERSED, reason=reason, actor=actor, ended_at=timezone.now())
        _undo_merge(submission, actor)
        wake_left_behind(lineage_id=submission.bounty.lineage_id)
    follow_funds(bounty=submission.bounty)
    return submission


def _reversal_id(award: Award) -> UUID:
    """Ledger id of an award's reversal. A restored award is paid by another transfer, so that its reversal is another one."""
    is_restored = award.transfer_id == step_id(award.pk, "restore")
    return step_id(award.pk, "reverse-restored" if is_restored else "reverse")


def restore(*, actor: User, submission: Submission, reason: str) -> None:
    """Pay a reversed submission's award again, of the same amount, and make its candidate the tip: its code landed again.

    Inside the caller's transaction, which holds the lineage's lock. It pays the author, not the pusher.
    Raises NotAllowed, WrongState, and EscrowExhausted or EscrowClosed of the ledger.
    """
    if not actor.is_maintainer or actor.pk in payees(submission):
        raise NotAllowed("Only a maintainer who is not paid by it can restore an award.")
    Submission.objects.select_for_update(no_key=True).get(pk=submission.pk)
    submission.refresh_from_db()
    lineage = Lineage.objects.get(pk=submission.bounty.lineage_id)
    _require_restorable(submission, lineage)
    must_move(submission, to=SubmissionState.VESTED, reason=reason, actor=actor, merged_at=timezone.now())
    for award in submission.awards.filter(state=AwardState.REVERSED).order_by("role"):
        _pay_again(award, reason, actor)
    Lineage.objects.filter(pk=lineage.pk, tip=submission.base_tree_id).update(tip=submission.candidate_tree)
    note(
        lineage,
        old=str(submission.base_tree_id),
        new=str(submission.candidate_tree_id),
        reason=f"submission {submission.pk} restored",
        actor=actor,
    )
    Submission.objects.filter(pk=submission.pk).update(merged_at=timezone.now())  # after the tip's move
    wake_left_behind(lineage_id=lineage.pk)


def _require_restorable(submission: Submission, lineage: Lineage) -> None:
    if submission.state != SubmissionState.REVERSED:
        raise WrongState(f"Only a reversed award can be restored; this submission is {submission.state}.")
    if is_stopped(Switch.AWARDS):
        raise WrongState("Awards are stopped. Restore it when they continue.")
    if lineage.tip_id != submission.base_tree_id:
        raise WrongState(
            "The tip has moved since: the code that landed again is not what was measured on it."
        )
    bounty = submission.bounty
    if bounty.is_for_a_bug:
        others = Award.objects.filter(bug=bounty, state__in=COUNTING).exclude(submission=submission)
    else:
        first = submission.awards.filter(state=AwardState.REVERSED).order_by("series_at").first()
        assert first is not None, "a reversed submission has its award"
        # What is not paid yet is priced again, on top of the restored gain; what is paid was priced without it.
        paid = (AwardState.VESTED, AwardState.RETURNED)
        others = series_awards(bounty).filter(state__in=paid, series_at__gt=first.series_at)
    if others.exists():
        raise WrongState(
            "Another submission was paid since the award was taken back, against the tree without this change. "
            "Dismiss the restoration; the change can be submitted again."
        )


def _pay_again(award: Award, reason: str, actor: User) -> None:
    """Reserve, book and vest the same amount from the same escrow, once for each award.

    What had returned unclaimed before stays returned: only the gain counts again.
    """
    changes = StateChange.objects.filter(subject="award", subject_id=str(award.pk))
    if changes.filter(new=AwardState.RETURNED).exists():
        move(award, to=AwardState.RETURNED, reason=reason, actor=actor)
        return
    amount, bounty = award.amount_microcredits, award.submission.bounty
    assert amount is not None, "a vested award has its amount"
    reservation_id, transfer_id = step_id(award.pk, "restore-reserve"), step_id(award.pk, "restore")
    reference = f"submission:{award.submission_id}"
    ledger.reserve_award(
        transfer_id=reservation_id,
        escrow_reference=bounty.escrow_reference,
        amount_microcredits=amount,
        reference=reference,
    )
    ledger.book_award(
        transfer_id=transfer_id,
        reservation_id=reservation_id,
        user=award.recipient,
        amount_microcredits=amount,
        reference=reference,
    )
    ledger.vest_award(transfer_id=transfer_id)
    is_moved = move(
        award,
        to=AwardState.VESTED,
        reason=reason,
        actor=actor,
        reservation_id=reservation_id,
        transfer_id=transfer_id,
        vested_at=timezone.now(),
        ended_at=None,
    )
    assert is_moved, "an award changes only together with its submission"


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
