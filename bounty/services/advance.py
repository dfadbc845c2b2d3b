"""The control plane's own steps with a submission, one after the other, each from the database and repeatable.

A worker may die between any two of them: whoever looks next goes on from the state that was stored.
"""

from uuid import UUID

from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.verdicts import VerdictKind
from bounty.models import (
    Evidence,
    NextStep,
    Run,
    RunKind,
    RunVerdict,
    Submission,
    SubmissionState,
)
from bounty.rewards import confirmed_award
from bounty.services.awards import book, confirmation_of, refuse, reserve, standing_award, vest
from bounty.services.submissions import find_submission
from bounty.services.transitions import move

MAX_STEPS = 12  # more than any submission has; a loop that does not end is a bug


def advance_submission(*, submission_id: UUID) -> Submission:
    """Do every step that can be done now. Raises NotFound."""
    for _ in range(MAX_STEPS):
        submission = find_submission(submission_id)
        if not _step(submission):
            break
    return find_submission(submission_id)


def _step(submission: Submission) -> bool:
    """One step; False when there is nothing to do now."""
    state = submission.state
    if state in (SubmissionState.QUEUED, SubmissionState.JUDGING):
        return _judge(submission)
    if state == SubmissionState.JUDGED and submission.next_step != NextStep.NONE:
        return _reserve(submission)
    if state == SubmissionState.CONFIRMING:
        return _confirm(submission)
    if state in (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED):
        return _vest_if_due(submission)
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
            reason += " No award: the evidence was made in a sandbox that the policy does not trust."
    moved = move(
        submission,
        to=SubmissionState.JUDGED,
        reason=f"gate: {verdict.kind}",
        verdict_kind=verdict.kind,
        verdict_reason=reason,
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
    verdict = verdict_of(confirmation_of(submission))
    award = standing_award(submission)
    if verdict is None or award is None:
        return False
    if verdict.kind != VerdictKind.GAIN:
        return refuse(submission=submission, verdict_kind=verdict.kind, reason=verdict.reason)
    if not _is_eligible(verdict.evidence):
        reason = (
            f"{verdict.reason} No award: the evidence was made in a sandbox that the policy does not trust."
        )
        return refuse(submission=submission, verdict_kind=verdict.kind, reason=reason)
    amount = confirmed_award(
        rate_microcredits_per_nat=award.rate_microcredits_per_nat,
        bound_log_ppm=verdict.log_ppm_bound or 0,
        reserved_microcredits=award.reserved_microcredits,
    )
    if amount.microcredits <= 0:
        reason = "The confirmed lower bound is not worth one micro-credit at this bounty's rate."
        return refuse(submission=submission, verdict_kind=VerdictKind.NO_GAIN.value, reason=reason)
    fault_point("control.confirmed")
    return book(submission=submission, award=award, verdict=verdict, amount=amount)


def _vest_if_due(submission: Submission) -> bool:
    if submission.state == SubmissionState.ACCEPTED and submission.merged_at is not None:
        vest(submission=submission, reason="accepted, and merged as measured")
        return True
    window = submission.bounty.review_window
    if window is None or submission.confirmed_at is None or submission.confirmed_at + window > timezone.now():
        return False
    if submission.state == SubmissionState.CONFIRMED:
        move(submission, to=SubmissionState.ACCEPTED, reason="the review window passed without a decline")
        return True
    vest(submission=submission, reason="the review window passed without a decline")
    return True
