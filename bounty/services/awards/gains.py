"""The steps of a gain: its award is reserved, priced by a confirmation, guarded, booked and vested."""

from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.verdicts import VerdictKind
from bounty.models import RunKind, Submission, SubmissionState, Switch
from bounty.rewards import award_microcredits
from bounty.services.awards.booking import book, refuse
from bounty.services.awards.lifecycle import reserve, standing_award, vest
from bounty.services.awards.steps import Path, judged_run, refusal_of, verdict_of
from bounty.services.emergency import is_stopped
from bounty.services.runs.guard_rails import guard_of, order_guard, pricing_run
from bounty.services.runs.lineage_losses import overspent
from bounty.services.series.best import is_left_behind, measured_present_trees
from bounty.services.series.comparisons import comparisons, order_comparison, same_tree_as
from bounty.services.series.remeasure import end_runs, follow_best, order_price_again
from bounty.services.series.sealed_order import awaiting_escrow_before, booking_waits, reservation_waits
from bounty.services.transitions import move
from bounty.services.trees import has_present_layout

AS_MEASURED = (
    "accepted as it was measured; its tree has an older layout, so it is not merged and the tip does not move"
)
# Verdicts that another base could change; all others are due to the patch itself.
COMPARED = (VerdictKind.GAIN, VerdictKind.NO_GAIN, VerdictKind.REGRESSION)


def _reserve(submission: Submission) -> bool:
    """Reserve escrow in sealed order: first for those that wait for credits of this bounty, then for this one."""
    verdict = verdict_of(judged_run(submission, RunKind.GATE))
    assert verdict is not None, "only a gate's verdict asks for a reservation"
    if reservation_waits(submission, verdict.run):
        return False
    for earlier in awaiting_escrow_before(submission):
        passed = verdict_of(judged_run(earlier, RunKind.GATE))
        if passed is not None:
            reserve(submission=earlier, gate=passed)
    return reserve(submission=submission, gate=verdict)


def _confirm(submission: Submission) -> bool:
    """Take the next step of a confirmation: price, guard rails, award; the price again if the best tree has moved."""
    priced, award = pricing_run(submission), standing_award(submission)
    verdict = verdict_of(priced)
    if priced is None or award is None:
        return False
    if verdict is None:
        return is_left_behind(submission) and follow_best(submission_id=submission.pk)
    if verdict.kind in COMPARED and is_left_behind(submission):
        return order_price_again(submission_id=submission.pk)
    if refusal := refusal_of(verdict):
        return refuse(submission=submission, run=priced, verdict_kind=verdict.kind, reason=refusal)
    guard = guard_of(priced)
    if guard is None and not measured_present_trees(priced, submission):
        return order_price_again(submission_id=submission.pk)  # another was booked meanwhile
    fault_point("control.confirmed")
    if refusal := same_tree_as(submission, priced):
        end_runs(submission, "the candidate is a tree that it has to beat")  # guard rails
        return refuse(
            submission=submission, run=priced, verdict_kind=VerdictKind.NO_GAIN.value, reason=refusal
        )
    lowest = verdict
    for comparison in comparisons(submission, priced):
        if comparison.run is None:
            return order_comparison(submission=submission, priced=priced, tree=comparison.tree)
        compared = verdict_of(comparison.run)
        if compared is None:
            return False
        if refusal := refusal_of(compared):
            reason = f"Compared with {comparison.why}: {refusal}"
            return refuse(
                submission=submission, run=comparison.run, verdict_kind=compared.kind, reason=reason
            )
        lowest = min(lowest, compared, key=lambda one: one.log_ppm_bound or 0)
    due = award_microcredits(
        rate_microcredits_per_nat=award.rate_microcredits_per_nat, log_ppm=lowest.log_ppm_bound or 0
    )
    if due <= 0:
        reason = (
            "The confirmed lower bound is worth less than one micro-credit at this bounty's rate, so "
            "there is no award."
        )
        return refuse(
            submission=submission, run=lowest.run, verdict_kind=VerdictKind.NO_GAIN.value, reason=reason
        )
    if guard is None:
        return order_guard(submission=submission, priced=priced)
    guarded = verdict_of(guard)
    if guarded is None:
        return False
    if refusal := refusal_of(guarded):
        return refuse(submission=submission, run=guard, verdict_kind=guarded.kind, reason=refusal)
    if spent := overspent(submission=submission, guard=guard):
        return refuse(
            submission=submission,
            run=guard,
            verdict_kind=VerdictKind.REGRESSION.value,
            reason=spent.reason,
        )
    fault_point("control.guards_held")
    if is_stopped(Switch.AWARDS) or booking_waits(submission):
        return False
    if book(submission=submission, verdict=verdict):
        return True
    return order_price_again(submission_id=submission.pk)


def _vest_if_due(submission: Submission) -> bool:
    if submission.state == SubmissionState.ACCEPTED and submission.merged_at is not None:
        return vest(submission=submission, reason="accepted, and merged as measured")
    if submission.state == SubmissionState.ACCEPTED and not has_present_layout(submission.base_tree_id):
        return vest(submission=submission, reason=AS_MEASURED)
    window = submission.bounty.review_window
    if window is None or submission.confirmed_at is None or submission.confirmed_at + window > timezone.now():
        return False
    if submission.state == SubmissionState.CONFIRMED:
        move(submission, to=SubmissionState.ACCEPTED, reason="the review window passed without a decline")
        return True
    return vest(submission=submission, reason="the review window passed without a decline")


GAIN = Path(
    judged_by=RunKind.GATE,
    passed=lambda: fault_point("control.gate_passed"),
    pay=_reserve,
    confirm=_confirm,
    vest=_vest_if_due,
)
