"""New prices after a base proved slow: who was priced against it is measured without it, and paid the difference.

A base is slow from a date that no one knows. Gains that were measured against it before had to beat a speed that the
series no longer has, and were paid too little or nothing. Those measured after it looked faster, and were paid too much. So
every gain that was booked after the slow one in its series is measured again, in the order of the series, without the
slow one's change. What is worth more gets the difference as a supplement, from the credits that came back. Nothing is
lowered here: a maintainer can reverse an award. Patches that were refused against the slow base are judged again.
"""

from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import WrongBase
from bounty.models import (
    OPEN_REPRICING_STATES,
    OPEN_RUN_STATES,
    Award,
    AwardRole,
    AwardState,
    BountyState,
    Lineage,
    NextStep,
    Repricing,
    RepricingState,
    Run,
    RunKind,
    RunState,
    StoredTree,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.rewards import award_microcredits
from bounty.services.access import is_decided
from bounty.services.awards.lifecycle import standing_award, standing_awards
from bounty.services.awards.steps import refusal_of, verdict_of
from bounty.services.bounties import follow_funds, step_id
from bounty.services.emergency import is_stopped
from bounty.services.runs.guard_rails import guard_of
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import is_left_behind, wake_left_behind
from bounty.services.series.remeasure import applied_to
from bounty.services.submissions import find_submission
from bounty.services.transitions import move, note
from bounty.services.trees import has_present_layout
from bounty.services.wakeups import wake_control
from gainshare.ledger import services as ledger
from gainshare.ledger.errors import EscrowClosed

BOOKED = (AwardState.UNVESTED, AwardState.VESTED)
PAYABLE = (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED, SubmissionState.VESTED)
NOTHING_LEFT = "nothing is left of the credits that came back"


def priced_after(award: Award) -> QuerySet[Award]:
    """The gains of the award's series that were priced after it, in the order of the series; reserved ones last."""
    bounty, run = award.submission.bounty, award.confirmation_run
    assert run is not None, "a base's award was booked"
    later = Q(state__in=BOOKED, series_at__gt=award.series_at) | Q(
        state=AwardState.RESERVED, gate_run__base_tree=run.candidate_tree_id
    )
    rows = Award.objects.filter(
        later,
        role=AwardRole.GAIN,
        submission__bounty__lineage=bounty.lineage_id,
        submission__bounty__suite=bounty.suite,
        submission__bounty__hardware=bounty.hardware,
    ).exclude(submission=award.submission_id)
    return rows.select_related("submission").order_by(
        F("series_at").asc(nulls_last=True), "submission__sealed_at", "pk"
    )


def refused_against(award: Award) -> list[Submission]:
    """Those whose gain was not found against this award's tree, and who could have one without its change."""
    bounty, run, paid = award.submission.bounty, award.confirmation_run, award.log_ppm_bound
    assert run is not None and paid is not None, "a base's award was booked"
    rows = Submission.objects.filter(
        bounty__lineage=bounty.lineage_id,
        bounty__suite=bounty.suite,
        bounty__hardware=bounty.hardware,
        state=SubmissionState.JUDGED,
        next_step=NextStep.NONE,
        verdict_kind__in=[VerdictKind.NO_GAIN.value, VerdictKind.REGRESSION.value],
        verdict_run__base_tree=run.candidate_tree_id,
        verdict_run__verdict__log_ppm_estimate__gt=-paid,
    ).exclude(bounty__state=BountyState.CLOSED)
    found = rows.select_related("bounty__lineage", "verdict_run__runner").order_by("sealed_at", "pk")
    return [each for each in found if has_present_layout(each.base_tree_id)]


def order_repricings(*, award: Award) -> None:
    """Write down whose price is due again after this award was taken back, and reserve for them what came back.

    Inside the transaction that took it back, under the lineage's lock.
    """
    rows = [
        Repricing.objects.create(
            slow_award=award, submission=each.submission, place=place, priced_by=each.confirmation_run
        )
        for place, each in enumerate(priced_after(award))
    ]
    if not rows:
        return
    for row in rows:
        note(row, old="", new=row.state, reason=f"the base of award {award.pk} proved slow")
    try:
        _reserve(rows[0], award.amount_microcredits or 0)
    except EscrowClosed:
        for row in rows:
            _unchanged(row, "the credits that came back had returned to the treasury with a closed escrow")
    wake_left_behind(lineage_id=award.submission.bounty.lineage_id)


def is_repriced(submission: Submission) -> bool:
    """Whether a new price of the submission is still due because its base proved slow."""
    return submission.repricings.filter(state__in=OPEN_REPRICING_STATES).exists()


def shown_repricings(rows: QuerySet[Repricing]) -> list[Repricing]:
    """Those of decided submissions: that another one is priced at all would tell that its gate has passed."""
    found = rows.select_related("submission__submitter", "submission__bounty")
    return [row for row in found if is_decided(row.submission)]


def supplements_of(submission: Submission) -> list[Award]:
    """What a gain got in addition because its base proved slow; the oldest first."""
    return list(standing_awards(submission).filter(role=AwardRole.SUPPLEMENT).order_by("booked_at"))


def unfinished_repricings() -> list[UUID]:
    """The slow awards after which prices are still due."""
    rows = Repricing.objects.filter(state__in=OPEN_REPRICING_STATES).order_by("slow_award")
    return list(rows.values_list("slow_award", flat=True).distinct())


def advance_repricings_of(*, submission_id: UUID) -> None:
    """Do what can be done now about the submission's own new price, and about those behind it."""
    rows = Repricing.objects.filter(submission=submission_id, state__in=OPEN_REPRICING_STATES)
    for slow_award_id in rows.values_list("slow_award", flat=True):
        advance_repricings(slow_award_id=slow_award_id)


def advance_repricings(*, slow_award_id: UUID) -> None:
    """Take the steps that are due after this award was taken back, each in a transaction of its own."""
    while _step(slow_award_id):
        fault_point("control.repriced")


def _step(slow_award_id: UUID) -> bool:
    """Start, continue or end the first open new price. False if it waits, or all have ended."""
    with transaction.atomic():
        slow = Award.objects.select_related("submission__bounty").get(pk=slow_award_id)
        # The lineage's lock is taken first, as in every booking.
        Lineage.objects.select_for_update(no_key=True).get(pk=slow.submission.bounty.lineage_id)
        open_rows = Repricing.objects.filter(slow_award=slow, state__in=OPEN_REPRICING_STATES)
        row = open_rows.select_related("run").order_by("place").first()
        if row is None:
            return False
        Submission.objects.select_for_update(no_key=True).get(pk=row.submission_id)
        submission = find_submission(row.submission_id)
        done = _advance(row, slow, submission)
    if done and row.state not in OPEN_REPRICING_STATES:
        follow_funds(bounty=slow.submission.bounty)
    return done


def _advance(row: Repricing, slow: Award, submission: Submission) -> bool:
    if row.reservation_id is None:
        return _unchanged(row, NOTHING_LEFT)
    award = standing_award(submission)
    if award is None or award.role != AwardRole.GAIN:
        return _unchanged(row, f"the submission is {submission.state} and has no award")
    if row.run is None and (submission.state == SubmissionState.CONFIRMING or _follows(submission)):
        return False  # it is priced again by itself, without the slow tree
    if submission.state not in PAYABLE:
        return _unchanged(row, f"the submission is {submission.state}")
    if row.state == RepricingState.WAITING:
        return _start(row, slow, submission, award)
    return _finish(row, award, submission)


def _follows(submission: Submission) -> bool:
    is_open = submission.state in (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED)
    return is_open and submission.merged_at is None and is_left_behind(submission)


def _start(row: Repricing, slow: Award, submission: Submission, award: Award) -> bool:
    """Order the measurement without the slow tree's change, or take the price that the submission has got meanwhile."""
    priced = award.confirmation_run
    assert priced is not None and slow.confirmation_run is not None, "both were booked"
    if _is_priced_anew(row, award, priced):
        if not move(
            row,
            to=RepricingState.MEASURING,
            reason="priced again, because the best tree moved",
            candidate_tree=priced.candidate_tree,
        ):
            return False
        return _finish(row, award, submission)
    if submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]).exists():
        return False  # another measurement of it ends first
    base = _base_of(row, slow.confirmation_run.base_tree)
    if not has_present_layout(base.pk):
        return _unchanged(row, "the trees have an older layout and cannot be measured again")
    try:
        candidate = applied_to(base, submission)
    except WrongBase as refusal:
        return _unchanged(row, f"the patch does not apply without the slow tree's change: {refusal.message}")
    run = queue_run(
        submission=submission,
        kind=RunKind.RECHECK,
        base=base,
        candidate=candidate,
        avoid_host_of=priced,
    )
    reason = f"measured again on {base.pk[:12]}, without the change of a base that proved slow"
    is_moved = move(row, to=RepricingState.MEASURING, reason=reason, candidate_tree=candidate, run=run)
    assert is_moved, "the lineage's row is locked"
    note(submission, old=submission.state, new=submission.state, reason=reason)
    return True


def _is_priced_anew(row: Repricing, award: Award, priced: Run) -> bool:
    """Whether the award's price is from another base than before: it followed the best tree."""
    before = row.priced_by or award.gate_run
    return priced.pk != row.priced_by_id and priced.base_tree_id != before.base_tree_id


def _base_of(row: Repricing, old_tree: StoredTree) -> StoredTree:
    """The best tree without the slow change: the one before it in the series, or the tree the slow one was priced against."""
    before = Repricing.objects.filter(
        slow_award=row.slow_award_id, place__lt=row.place, candidate_tree__isnull=False
    )
    nearest = before.select_related("candidate_tree").order_by("-place").first()
    return old_tree if nearest is None or nearest.candidate_tree is None else nearest.candidate_tree


def _finish(row: Repricing, award: Award, submission: Submission) -> bool:
    """Read the new price; where it is higher and the guard rails hold, pay the difference."""
    priced = row.run or award.confirmation_run
    verdict = verdict_of(priced)
    if priced is None or verdict is None:
        return priced is not None and _ended_with(row, priced)
    if refusal := refusal_of(verdict):
        return _unchanged(row, f"measured again: {refusal}")
    bound = (verdict.log_ppm_bound if row.run is not None else award.log_ppm_bound) or 0
    due = award_microcredits(rate_microcredits_per_nat=award.rate_microcredits_per_nat, log_ppm=bound)
    paid = sum(
        each.amount_microcredits or 0
        for each in standing_awards(submission)
        if each.role in (AwardRole.GAIN, AwardRole.SUPPLEMENT)
    )
    if due <= paid:
        return _unchanged(row, f"measured again, it is worth {due} micro-credits, and {paid} were awarded")
    if row.run is not None:
        guard = guard_of(row.run)
        if guard is None:
            return _order_guard(row, submission)
        guarded = verdict_of(guard)
        if guarded is None:
            return _ended_with(row, guard)
        if refusal := refusal_of(guarded):
            return _unchanged(row, f"its guard rails did not hold: {refusal}")
    if is_stopped(Switch.AWARDS):
        return False
    _pay(row, award, submission, priced, bound=bound, due=due - paid)
    return True


def _ended_with(row: Repricing, run: Run) -> bool:
    """End a new price whose run will have no verdict; False while the run may still have one."""
    if run.state == RunState.LOST:
        return _unchanged(row, f"its {run.kind} run was cancelled")
    if run.state != RunState.QUEUED or has_present_layout(run.base_tree_id):
        return False
    reason = "the trees have an older layout and cannot be measured again"
    return move(run, to=RunState.LOST, reason=reason) and _unchanged(row, reason)


def _order_guard(row: Repricing, submission: Submission) -> bool:
    run = row.run
    assert run is not None
    if submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]).exists():
        return False
    queue_run(
        submission=submission,
        kind=RunKind.GUARD,
        base=run.base_tree,
        candidate=run.candidate_tree,
        after=run,
    )
    return False


def _pay(row: Repricing, award: Award, submission: Submission, priced: Run, *, bound: int, due: int) -> None:
    """Book the difference, at most what is left of the credits that came back. A vested gain's vests at once."""
    assert row.reservation_id is not None
    amount = min(due, row.reserved_microcredits)
    transfer_id = step_id(row.pk, "award")
    ledger.book_award(
        transfer_id=transfer_id,
        reservation_id=row.reservation_id,
        user=submission.submitter,
        amount_microcredits=amount,
        reference=f"submission:{submission.pk}",
    )
    now = timezone.now()
    supplement = Award.objects.create(
        submission=submission,
        role=AwardRole.SUPPLEMENT,
        gate_run=award.gate_run,
        confirmation_run=priced,
        reservation_id=row.reservation_id,
        transfer_id=transfer_id,
        reserved_microcredits=row.reserved_microcredits,
        amount_microcredits=amount,
        rate_microcredits_per_nat=award.rate_microcredits_per_nat,
        log_ppm_bound=bound,
        is_partial=amount < due,
        state=AwardState.UNVESTED,
        booked_at=now,
        series_at=award.series_at,
    )
    reason = f"{amount} micro-credits more: the base that the gain was priced against proved slow"
    note(supplement, old="", new=supplement.state, reason=reason)
    if submission.state == SubmissionState.VESTED:
        ledger.vest_award(transfer_id=transfer_id)
        move(supplement, to=AwardState.VESTED, reason="its gain has vested", vested_at=now)
    note(submission, old=submission.state, new=submission.state, reason=reason)
    _end(row, RepricingState.PAID, reason, rest=row.reserved_microcredits - amount, award=supplement)


def _unchanged(row: Repricing, reason: str) -> bool:
    """End a new price that pays nothing; always True."""
    if row.reservation_id is not None:
        ledger.release_reservation(transfer_id=row.reservation_id)
    _end(row, RepricingState.UNCHANGED, reason, rest=row.reserved_microcredits)
    return True


def _end(row: Repricing, to: RepricingState, reason: str, *, rest: int, award: Award | None = None) -> None:
    outcome = reason[:1000]
    is_moved = move(row, to=to, reason=outcome, outcome=outcome, award=award, ended_at=timezone.now())
    assert is_moved, "the lineage's row is locked"
    waiting = Repricing.objects.filter(slow_award=row.slow_award_id, state=RepricingState.WAITING)
    following = waiting.order_by("place").first()
    if following is not None and rest > 0:
        _reserve(following, rest)


def _reserve(row: Repricing, amount: int) -> None:
    """Hold credits for the next new price. Raises EscrowClosed."""
    reservation_id = step_id(row.pk, "reserve")
    ledger.reserve_award(
        transfer_id=reservation_id,
        escrow_reference=row.slow_award.submission.bounty.escrow_reference,
        amount_microcredits=amount,
        reference=f"submission:{row.submission_id}",
    )
    Repricing.objects.filter(pk=row.pk).update(reservation_id=reservation_id, reserved_microcredits=amount)
    row.reservation_id, row.reserved_microcredits = reservation_id, amount
    wake_control(submission_id=row.submission_id)
