"""Table of the control plane's automatic steps for a submission in each state.

Gains and fixes share the table; where they differ, each has its own functions in a `Path`. A worker may die
between any two steps, so each step reads the database and can be repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.models import NextStep, Run, RunKind, RunVerdict, Submission, SubmissionState
from bounty.services.awards.lifecycle import has_enough_acceptances, standing_award
from bounty.services.runs.rechecks import CheckOutcome, blocks_payment, check_of
from bounty.services.series.best import is_left_behind
from bounty.services.series.copies import settle_copy
from bounty.services.series.remeasure import follow_best
from bounty.services.transitions import move

UNTRUSTED = (
    "No award, because the evidence was made in a sandbox that the policy does not trust, or with memory counted in a way "
    "that earns none."
)

Step = Callable[[Submission], bool]  # False if there is nothing to do now


@dataclass(frozen=True, slots=True)
class Path:
    """The steps that differ between a gain and the fix of a bug, in the order in which they come."""

    judged_by: RunKind  # the run that decides whether the submission continues
    passed: Callable[[], None]  # the fault point after that run passed
    pay: Step  # after it passed: reserve money, or book the award
    confirm: Step  # while confirming: measure until the award is booked
    vest: Step  # after the review: vest the award


def take_step(submission: Submission, path: Path) -> bool:
    """Take one step; False if there is nothing to do now."""
    match submission.state:
        case SubmissionState.CHECKED:
            return settle_copy(submission)
        case SubmissionState.QUEUED if is_left_behind(submission):
            return follow_best(submission_id=submission.pk)
        case SubmissionState.QUEUED | SubmissionState.JUDGING:
            return _judge(submission, path)
        case SubmissionState.JUDGED if submission.next_step != NextStep.NONE:
            return follow_tip(submission) or path.pay(submission)
        case SubmissionState.CONFIRMING:
            return path.confirm(submission)
        case SubmissionState.CONFIRMED | SubmissionState.ACCEPTED:
            return _review(submission, path)
    return False


def follow_tip(submission: Submission) -> bool:
    """Apply the submission to the current tree, if that has moved; False if nothing changed."""
    return is_left_behind(submission) and follow_best(submission_id=submission.pk)


def judged_run(submission: Submission, kind: RunKind) -> Run | None:
    """The submission's newest run of this kind."""
    return submission.runs.filter(kind=kind).order_by("-sequence").first()


def verdict_of(run: Run | None) -> RunVerdict | None:
    """The run's verdict with its evidence, if it has one yet."""
    if run is None:
        return None
    return RunVerdict.objects.select_related("run__reproduction__author", "evidence").filter(run=run).first()


def refusal_of(verdict: RunVerdict) -> str:
    """Reason why a run earns nothing; empty if it passed."""
    if verdict.kind != VerdictKind.GAIN:
        return verdict.reason
    is_trusted = verdict.evidence is not None and verdict.evidence.is_award_eligible
    return "" if is_trusted else f"{verdict.reason} {UNTRUSTED}"


def _judge(submission: Submission, path: Path) -> bool:
    """Record the verdict of the judging run."""
    verdict = verdict_of(judged_run(submission, path.judged_by))
    if verdict is None:
        return False
    refusal = refusal_of(verdict)
    is_moved = move(
        submission,
        to=SubmissionState.JUDGED,
        reason=f"{path.judged_by}: {verdict.kind}",
        verdict_kind=verdict.kind,
        verdict_reason=refusal or verdict.reason,
        verdict_run=verdict.run,
        next_step=NextStep.NONE if refusal else NextStep.RESERVE,
        judged_at=timezone.now(),
    )
    if is_moved and not refusal:
        path.passed()
    return True


def _review(submission: Submission, path: Path) -> bool:
    """Take a step during review: follow the tip, mark as suspicious, accept, vest."""
    if submission.merged_at is None and is_left_behind(submission):
        return follow_best(submission_id=submission.pk)
    award = standing_award(submission)
    check = check_of(award) if award is not None else None
    if check is not None and check.outcome == CheckOutcome.INCONSISTENT and submission.merged_at is None:
        return _suspect(submission, check.run, check.doubt)
    if submission.state == SubmissionState.CONFIRMED and has_enough_acceptances(submission):
        return move(submission, to=SubmissionState.ACCEPTED, reason="enough people have accepted this tree")
    return not blocks_payment(award) and path.vest(submission)


def _suspect(submission: Submission, run: Run, doubt: str) -> bool:
    """Mark a gain that was not found again as suspicious. The award stays unvested until a maintainer decides."""
    reason = (
        f"{doubt} The award waits until a maintainer declines the submission or has it judged again. You "
        "can dispute this verdict."
    )
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
