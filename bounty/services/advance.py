"""The control plane's own steps with a submission, one after the other, each from the database and repeatable.

A worker may die between any two of them: whoever looks next goes on from the state that was stored.
"""

from uuid import UUID

from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.judging.verdicts import VerdictKind
from bounty.models import (
    Evidence,
    NextStep,
    Run,
    RunKind,
    RunVerdict,
    Submission,
    SubmissionState,
    Switch,
)
from bounty.rewards import award_microcredits
from bounty.services.awards import has_enough_acceptances, reserve, standing_award, vest
from bounty.services.booking import book, refuse
from bounty.services.fixes import fix_step
from bounty.services.guards import guard_of, order_guard, pricing_run
from bounty.services.layouts import has_present_layout
from bounty.services.rechecks import CheckOutcome, check_of, holds_up
from bounty.services.remeasure import follow_best, measure_anew
from bounty.services.series import is_left_behind
from bounty.services.submissions import find_submission
from bounty.services.switches import is_stopped
from bounty.services.transitions import move

MAX_STEPS = 12  # more than any submission has; a loop that does not end is a bug
UNTRUSTED = "No award: the evidence was made in a sandbox that the policy does not trust."
AS_MEASURED = (
    "accepted as it was measured; its tree has an older layout, so it is not merged and the tip stays"
)
# What another base could have changed; anything else is the patch's own doing.
COMPARED = (VerdictKind.GAIN, VerdictKind.NO_GAIN, VerdictKind.REGRESSION)


def advance_submission(*, submission_id: UUID) -> Submission:
    """Do every step that can be done now. Raises NotFound."""
    for _ in range(MAX_STEPS):
        submission = find_submission(submission_id)
        if not _step(submission):
            break
    return find_submission(submission_id)


def _step(submission: Submission) -> bool:
    """One step; False when there is nothing to do now."""
    if submission.bounty.is_for_a_bug:
        return fix_step(submission)
    state = submission.state
    if state == SubmissionState.QUEUED and is_left_behind(submission):
        return follow_best(submission_id=submission.pk)
    if state in (SubmissionState.QUEUED, SubmissionState.JUDGING):
        return _judge(submission)
    if state == SubmissionState.JUDGED and submission.next_step != NextStep.NONE:
        if is_left_behind(submission) and follow_best(submission_id=submission.pk):
            return True
        return _reserve(submission)
    if state == SubmissionState.CONFIRMING:
        return _confirm(submission)
    if state in (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED):
        return _review(submission)
    return False


def verdict_of(run: Run | None) -> RunVerdict | None:
    """The run's verdict with its evidence, if it has one yet."""
    if run is None:
        return None
    return RunVerdict.objects.select_related("run", "evidence").filter(run=run).first()


def _newest_gate(submission: Submission) -> RunVerdict | None:
    return verdict_of(submission.runs.filter(kind=RunKind.GATE).order_by("-sequence").first())


def _is_eligible(evidence: Evidence | None) -> bool:
    return evidence is not None and evidence.is_award_eligible


def _judge(submission: Submission) -> bool:
    verdict = _newest_gate(submission)
    if verdict is None:
        return False
    reason, next_step = verdict.reason, NextStep.NONE
    if verdict.kind == VerdictKind.GAIN:
        if _is_eligible(verdict.evidence):
            next_step = NextStep.RESERVE
        else:
            reason += f" {UNTRUSTED}"
    moved = move(
        submission,
        to=SubmissionState.JUDGED,
        reason=f"gate: {verdict.kind}",
        verdict_kind=verdict.kind,
        verdict_reason=reason,
        verdict_run=verdict.run,
        next_step=next_step,
        judged_at=timezone.now(),
    )
    if moved and next_step == NextStep.RESERVE:
        fault_point("control.gate_passed")
    return True


def _reserve(submission: Submission) -> bool:
    verdict = _newest_gate(submission)
    assert verdict is not None, "only a gate's verdict asks for a reservation"
    return reserve(submission=submission, gate=verdict)


def _confirm(submission: Submission) -> bool:
    """Price, then guard rails, then the award; back to the price when the best tree has moved meanwhile."""
    priced, award = pricing_run(submission), standing_award(submission)
    verdict = verdict_of(priced)
    if priced is None or award is None:
        return False
    if verdict is None:
        return is_left_behind(submission) and follow_best(submission_id=submission.pk)
    if verdict.kind in COMPARED and is_left_behind(submission):
        return measure_anew(submission_id=submission.pk)
    if refusal := _refusal(verdict):
        return refuse(submission=submission, run=priced, verdict_kind=verdict.kind, reason=refusal)
    due = award_microcredits(
        rate_microcredits_per_nat=award.rate_microcredits_per_nat, log_ppm=verdict.log_ppm_bound or 0
    )
    if due <= 0:
        reason = "The confirmed lower bound is not worth one micro-credit at this bounty's rate."
        return refuse(
            submission=submission, run=priced, verdict_kind=VerdictKind.NO_GAIN.value, reason=reason
        )
    fault_point("control.confirmed")
    guard = guard_of(priced)
    if guard is None:
        return order_guard(submission=submission, priced=priced)
    guarded = verdict_of(guard)
    if guarded is None:
        return False
    if refusal := _refusal(guarded):
        return refuse(submission=submission, run=guard, verdict_kind=guarded.kind, reason=refusal)
    fault_point("control.guards_held")
    if is_stopped(Switch.AWARDS):
        return False
    if book(submission=submission, verdict=verdict):
        return True
    return measure_anew(submission_id=submission.pk)


def _refusal(verdict: RunVerdict) -> str:
    """Why a price or its guard rails earn nothing; empty where they hold."""
    if verdict.kind != VerdictKind.GAIN:
        return verdict.reason
    return "" if _is_eligible(verdict.evidence) else f"{verdict.reason} {UNTRUSTED}"


def _review(submission: Submission) -> bool:
    """What the control plane does by itself while people review: follow, doubt, accept, vest."""
    if submission.merged_at is None and is_left_behind(submission):
        return follow_best(submission_id=submission.pk)
    award = standing_award(submission)
    check = check_of(award) if award is not None else None
    if check is not None and check.outcome == CheckOutcome.INCONSISTENT and submission.merged_at is None:
        return _suspect(submission, check.run, check.doubt)
    if submission.state == SubmissionState.CONFIRMED and has_enough_acceptances(submission):
        return move(submission, to=SubmissionState.ACCEPTED, reason="enough people have accepted this tree")
    return not holds_up(award) and _vest_if_due(submission)


def _suspect(submission: Submission, run: Run, doubt: str) -> bool:
    """Not found again: a maintainer looks. The award stays as it is, unvested, until somebody decides."""
    reason = f"{doubt} The award waits: a maintainer looks at it, declines it or has it measured again."
    move(
        submission,
        to=SubmissionState.JUDGED,
        reason=doubt,
        verdict_kind=VerdictKind.SUSPICIOUS.value,
        verdict_reason=reason,
        verdict_run=run,
        next_step=NextStep.NONE,
    )
    return True


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
