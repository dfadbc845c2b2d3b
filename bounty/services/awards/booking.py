"""Booking of confirmed gains as unvested awards, or return of the money if the confirmation failed.

Money and state change in one transaction under the lineage's lock, which orders the gains of a series.
"""

from uuid import UUID

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.verdicts import VerdictKind
from bounty.models import (
    Award,
    AwardState,
    Bounty,
    BountyState,
    Lineage,
    NextStep,
    Run,
    RunVerdict,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.rewards import AwardAmount, confirmed_award
from bounty.services.awards.lifecycle import standing_award, void_award
from bounty.services.awards.repricing import is_repriced
from bounty.services.bounties import available_escrow, follow_funds, step_id
from bounty.services.emergency import is_stopped
from bounty.services.runs.guard_rails import pricing_run
from bounty.services.runs.rechecks import order_if_drawn
from bounty.services.series.best import measured_present_trees, wake_left_behind
from bounty.services.series.comparisons import comparisons, same_tree_as
from bounty.services.series.likenesses import words_on_likeness
from bounty.services.series.sealed_order import note_out_of_order
from bounty.services.transitions import move, note
from gainshare.ledger import services as ledger


def book(*, submission: Submission, verdict: RunVerdict) -> bool:
    """Book the confirmed award as unvested; its candidate becomes the series' best tree.

    It pays the lowest bound, of the price and of every comparison (`bounty.services.series.comparisons`).
    An award that was booked before is voided and booked again at the new price; it keeps its place in the series.
    False if the best tree has moved since the run was leased: nothing was booked, and another price is due.
    """
    run = verdict.run
    with transaction.atomic():
        if is_stopped(Switch.AWARDS):
            return True  # stopped just now: the next look finds the switch and waits
        # The lock orders two confirmations of one series.
        Lineage.objects.select_for_update(no_key=True).get(pk=submission.bounty.lineage_id)
        submission = Submission.objects.select_related("bounty__lineage", "submitter").get(pk=submission.pk)
        newest, award = pricing_run(submission), standing_award(submission)
        if submission.state != SubmissionState.CONFIRMING or newest != run or award is None:
            return True  # another worker has continued meanwhile
        if not measured_present_trees(run, submission):
            return False
        lowest = _lowest(submission, verdict)
        if lowest is None:
            return True  # it has to be compared with one that was booked just now
        is_booked_before = award.state == AwardState.UNVESTED
        amount = _price_of(award, submission.bounty, lowest)
        now = timezone.now()
        is_moved = move(
            submission,
            to=SubmissionState.CONFIRMED,
            reason=f"confirmed: {amount.microcredits} micro-credits, unvested",
            verdict_kind=verdict.kind,
            verdict_reason=lowest.reason + words_on_likeness(submission),
            verdict_run=lowest.run,
            confirmed_at=now,
        )
        if not is_moved:
            return True
        if is_booked_before:
            award = _voided_for_a_new_price(award, submission, run, amount.microcredits)
        else:
            note_out_of_order(submission)
        transfer_id = step_id(run.pk, "award")
        ledger.book_award(
            transfer_id=transfer_id,
            reservation_id=award.reservation_id,
            user=submission.submitter,
            amount_microcredits=amount.microcredits,
            reference=f"submission:{submission.pk}",
        )
        is_booked = move(
            award,
            to=AwardState.UNVESTED,
            reason=f"rate x {lowest.log_ppm_bound} millionths of a nat",
            confirmation_run=run,
            transfer_id=transfer_id,
            amount_microcredits=amount.microcredits,
            log_ppm_bound=lowest.log_ppm_bound,
            is_partial=amount.is_partial,
            booked_at=now,
            series_at=award.series_at or now,
        )
        assert is_booked, "an award changes only together with its submission"
        if amount.is_partial and not is_repriced(submission):
            _close_after_partial(submission.bounty_id)
        order_if_drawn(submission=submission, priced=run)
        wake_left_behind(lineage_id=submission.bounty.lineage_id)
    follow_funds(bounty=submission.bounty)
    fault_point("control.award_booked")
    return True


def _lowest(submission: Submission, price: RunVerdict) -> RunVerdict | None:
    """The verdict with the lowest bound, of the price and all comparisons; None where one of these is not measured."""
    if same_tree_as(submission, price.run):
        return None  # the next step refuses it
    found = [price]
    for comparison in comparisons(submission, price.run):
        verdict = comparison.verdict
        if verdict is None or verdict.kind != VerdictKind.GAIN:
            return None
        found.append(verdict)
    return min(found, key=lambda verdict: verdict.log_ppm_bound or 0)


def _price_of(award: Award, bounty: Bounty, verdict: RunVerdict) -> AwardAmount:
    """Award for the verdict's bound: at most the reservation; a new price is also limited by the escrow's balance."""
    ceiling = award.reserved_microcredits
    if award.state == AwardState.UNVESTED:
        ceiling = min(ceiling, available_escrow(bounty) + (award.amount_microcredits or 0))
    amount = confirmed_award(
        rate_microcredits_per_nat=award.rate_microcredits_per_nat,
        bound_log_ppm=verdict.log_ppm_bound or 0,
        reserved_microcredits=ceiling,
    )
    is_short = award.state == AwardState.RESERVED or ceiling < award.reserved_microcredits
    return AwardAmount(amount.microcredits, amount.is_partial and is_short)


def _voided_for_a_new_price(old: Award, submission: Submission, run: Run, amount: int) -> Award:
    """Void a booked award and reserve its successor's amount from the same escrow, in one transaction."""
    void_award(submission=submission, reason=f"priced again by {run.kind} run {run.pk}")
    reservation_id = step_id(run.pk, "reserve")
    ledger.reserve_award(
        transfer_id=reservation_id,
        escrow_reference=submission.bounty.escrow_reference,
        amount_microcredits=amount,
        reference=f"submission:{submission.pk}",
    )
    award = Award.objects.create(
        submission=submission,
        gate_run=old.gate_run,
        reservation_id=reservation_id,
        reserved_microcredits=old.reserved_microcredits,
        rate_microcredits_per_nat=old.rate_microcredits_per_nat,
        series_at=old.series_at,
    )
    note(award, old="", new=award.state, reason=f"{amount} micro-credits reserved for the new price")
    return award


def _close_after_partial(bounty_id: UUID) -> None:
    bounty = Bounty.objects.get(pk=bounty_id)
    if bounty.state != BountyState.CLOSED:
        reason = "an award was worth more than the escrow held"
        move(bounty, to=BountyState.CLOSED, reason=reason, closed_at=timezone.now())


def refuse(*, submission: Submission, run: Run, verdict_kind: str, reason: str) -> bool:
    """Judge a submission whose confirmation or guard rails failed, and return its money to escrow."""
    with transaction.atomic():
        is_moved = move(
            submission,
            to=SubmissionState.JUDGED,
            reason=f"not confirmed: {reason}",
            verdict_kind=verdict_kind,
            verdict_reason=reason,
            verdict_run=run,
            next_step=NextStep.NONE,
        )
        if is_moved:
            void_award(submission=submission, reason="not confirmed")
            wake_left_behind(lineage_id=submission.bounty.lineage_id)
    follow_funds(bounty=submission.bounty)
    return True
