"""Steps of a bug's fix: judged, booked as two awards, reviewed, vested.

A fix has one run: the reproduction shows the bug on base and not on the patched tree, and the suites are
right. The award is fixed, so there is no confirmation. A bug is paid once: another fix that passes waits, and
is paid if the first one is not.
"""

from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.models import (
    COUNTING,
    OPEN_RUN_STATES,
    Award,
    AwardRole,
    AwardState,
    Bounty,
    BountyState,
    Lineage,
    NextStep,
    Reproduction,
    Run,
    RunKind,
    RunState,
    RunVerdict,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.rewards import bug_shares
from bounty.services.awards.booking import refuse
from bounty.services.awards.lifecycle import vest, void_award
from bounty.services.awards.steps import Path, follow_tip, judged_run, refusal_of, verdict_of
from bounty.services.bounties import available_escrow, follow_funds, step_id
from bounty.services.emergency import is_stopped
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base
from bounty.services.submissions import find_submission
from bounty.services.transitions import move, note
from bounty.services.trees import has_present_layout
from gainshare.accounts.models import User
from gainshare.ledger import services as ledger

AS_JUDGED = (
    "accepted as it was judged; its tree has an older layout, so it is not merged and the tip does not move"
)


@dataclass(frozen=True, slots=True)
class Lot:
    """One part of a bug's award."""

    role: AwardRole
    person: User
    microcredits: int
    reproduction: Reproduction | None = None


def _confirm(submission: Submission) -> bool:
    """Decide again by the newest run; if it fails, booked awards return to escrow."""
    if follow_tip(submission):
        return True
    verdict = verdict_of(judged_run(submission, RunKind.FIX))
    if verdict is None:
        return False
    if refusal := refusal_of(verdict):
        return refuse(submission=submission, run=verdict.run, verdict_kind=verdict.kind, reason=refusal)
    return _pay(submission)


def _pay(submission: Submission) -> bool:
    verdict = verdict_of(judged_run(submission, RunKind.FIX))
    if verdict is None or is_stopped(Switch.AWARDS):
        return False
    if not _measured_present_trees(verdict.run, submission):
        # A fix that could not be paid now takes no runner's time.
        return not _is_paid_to_another(submission) and _try_again(submission.pk)
    return book_fix(submission_id=submission.pk, verdict=verdict)


def _is_paid_to_another(submission: Submission) -> bool:
    """Whether the bug's award is booked, or paid, for another fix."""
    counting = Award.objects.filter(bug=submission.bounty_id, state__in=COUNTING)
    return counting.exclude(submission=submission).exists()


def _measured_present_trees(run: Run, submission: Submission) -> bool:
    return (
        run.candidate_tree_id == submission.candidate_tree_id
        and run.base_tree_id == measured_base(bounty=submission.bounty).pk
    )


def _try_again(submission_id: UUID) -> bool:
    """Order another run for a fix that has followed the tip since its last run. False if one waits already."""
    with transaction.atomic():
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        unfinished = submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES])
        before = judged_run(submission, RunKind.FIX)
        if unfinished.exists() or before is None or _measured_present_trees(before, submission):
            return False
        if submission.state == SubmissionState.JUDGED:
            reason = "the tip moved: tested again on the current tree"
            move(submission, to=SubmissionState.QUEUED, reason=reason, next_step=NextStep.NONE)
        base = measured_base(bounty=submission.bounty)
        queue_run(submission=submission, kind=RunKind.FIX, base=base, avoid_host_of=before)
    return True


def book_fix(*, submission_id: UUID, verdict: RunVerdict) -> bool:
    """Book the bug's award as unvested, in one transaction: the reproduction's share, and the rest for the fix.

    False if the bug is being paid for another fix, or the escrow is too small: the fix then waits.
    """
    run = verdict.run
    with transaction.atomic():
        # The lineage's lock is taken first, as in every booking; the bounty's lock orders two fixes.
        lineage_id = find_submission(submission_id).bounty.lineage_id
        Lineage.objects.select_for_update(no_key=True).get(pk=lineage_id)
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        bounty = Bounty.objects.select_for_update(no_key=True).get(pk=submission.bounty_id)
        may_book = submission.next_step != NextStep.NONE or submission.state == SubmissionState.CONFIRMING
        if (
            not may_book
            or judged_run(submission, RunKind.FIX) != run
            or not _measured_present_trees(run, submission)
        ):
            return True  # another worker has continued meanwhile
        # Booked before: voided and booked again, because a booked award keeps its run.
        void_award(submission=submission, reason=f"tested again by {run.kind} run {run.pk}")
        assert bounty.award_microcredits is not None
        if _is_paid_to_another(submission) or available_escrow(bounty) < bounty.award_microcredits:
            return _await_escrow(submission)
        is_moved = move(
            submission,
            to=SubmissionState.CONFIRMED,
            reason=f"fixed: {bounty.award_microcredits} micro-credits, unvested",
            verdict_kind=verdict.kind,
            verdict_reason=verdict.reason,
            verdict_run=run,
            confirmed_at=timezone.now(),
            next_step=NextStep.NONE,
        )
        assert is_moved, "the submission's row is locked"
        for lot in lots_of(bounty=bounty, submission=submission, run=run):
            _book_lot(lot, submission, bounty, run)
    follow_funds(bounty=bounty)
    fault_point("control.fix_booked")
    return True


def lots_of(*, bounty: Bounty, submission: Submission, run: Run) -> list[Lot]:
    """Parts of the bug's award with their recipients, who may be the same person."""
    assert bounty.award_microcredits is not None and bounty.reproduction_ppm is not None
    tried = run.reproduction
    assert tried is not None, "a fix is judged with a reproduction"
    shares = bug_shares(
        award_microcredits=bounty.award_microcredits,
        reproduction_ppm=bounty.reproduction_ppm,
        is_reproduction_paid=tried.earns,
    )
    lots = [Lot(AwardRole.FIX, submission.submitter, shares.fix_microcredits)]
    if shares.reproduction_microcredits:
        lots.append(Lot(AwardRole.REPRODUCTION, tried.author, shares.reproduction_microcredits, tried))
    return lots


def _book_lot(lot: Lot, submission: Submission, bounty: Bounty, run: Run) -> None:
    """Reserve and book one lot. Its ids are derived from the run and the role, so a repetition pays nothing."""
    reservation_id, transfer_id = step_id(run.pk, f"reserve:{lot.role}"), step_id(run.pk, f"award:{lot.role}")
    ledger.reserve_award(
        transfer_id=reservation_id,
        escrow_reference=bounty.escrow_reference,
        amount_microcredits=lot.microcredits,
        reference=f"submission:{submission.pk}",
    )
    ledger.book_award(
        transfer_id=transfer_id,
        reservation_id=reservation_id,
        user=lot.person,
        amount_microcredits=lot.microcredits,
        reference=f"submission:{submission.pk}",
    )
    now = timezone.now()
    award = Award.objects.create(
        submission=submission,
        role=lot.role,
        bug=bounty,
        reproduction=lot.reproduction,
        gate_run=run,
        confirmation_run=run,
        reservation_id=reservation_id,
        transfer_id=transfer_id,
        reserved_microcredits=lot.microcredits,
        amount_microcredits=lot.microcredits,
        rate_microcredits_per_nat=0,
        state=AwardState.UNVESTED,
        booked_at=now,
        series_at=now,
    )
    what = f"{lot.microcredits} of {bounty.award_microcredits} micro-credits for the {lot.role}"
    note(award, old="", new=award.state, reason=what)


def _await_escrow(submission: Submission) -> bool:
    assert submission.state == SubmissionState.JUDGED, (
        "what was booked before has just returned to its escrow"
    )
    changed = Submission.objects.filter(pk=submission.pk, next_step=NextStep.RESERVE).update(
        next_step=NextStep.AWAIT_ESCROW
    )
    if changed:
        note(
            submission,
            old=submission.state,
            new=submission.state,
            reason="waits, because another fix was first",
        )
    return False


def _vest_if_merged(submission: Submission) -> bool:
    """Vest both awards and close the bounty when the accepted fix is merged, or can no longer be merged."""
    is_old = not has_present_layout(submission.base_tree_id)
    if submission.state != SubmissionState.ACCEPTED or (submission.merged_at is None and not is_old):
        return False
    with transaction.atomic():
        reason = "accepted, and merged as judged" if submission.merged_at else AS_JUDGED
        if not vest(submission=submission, reason=reason):
            return False
        bounty = Bounty.objects.select_for_update(no_key=True).get(pk=submission.bounty_id)
        if bounty.state != BountyState.CLOSED:
            reason = "the bug is fixed and paid"
            move(bounty, to=BountyState.CLOSED, reason=reason, closed_at=timezone.now())
    fault_point("control.bug_paid")
    return True


FIX = Path(
    judged_by=RunKind.FIX,
    passed=lambda: fault_point("control.fix_passed"),
    pay=_pay,
    confirm=_confirm,
    vest=_vest_if_merged,
)
