"""Reviews: a maintainer accepts or declines a judged submission, or has it judged again."""

from uuid import UUID

from django.db import transaction

from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.models import (
    OPEN_RUN_STATES,
    Award,
    NextStep,
    Review,
    ReviewDecision,
    Run,
    RunKind,
    RunState,
    Submission,
    SubmissionState,
)
from bounty.services.awards import has_enough_acceptances, void_award
from bounty.services.bounties import follow_funds
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series import measured_base, wake_left_behind
from bounty.services.submissions import find_submission
from bounty.services.transitions import move
from bounty.services.trees import AGAINST_TIP, has_present_layout, require_present_layout
from bounty.services.wakeups import wake_control
from gainshare.accounts.models import User

OPEN_FOR_REVIEW = (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED)
JUDGED_AGAIN = (VerdictKind.SUSPICIOUS.value, VerdictKind.INFRASTRUCTURE_ERROR.value)


def review(*, actor: User, submission_id: UUID, decision: str, comment: str = "") -> Submission:
    """A maintainer other than the author accepts or declines. Enough acceptances make it accepted; one decline
    ends it and gives the award back to escrow."""
    if decision not in ReviewDecision.values:
        raise BadRequest("The decision is accept or decline.")
    if find_submission(submission_id).submitter_id == actor.pk:
        raise NotAllowed("Nobody reviews their own submission.")
    if Award.objects.filter(submission=submission_id, reproduction__author=actor).exists():
        raise NotAllowed("Nobody reviews the fix of a bug that they are paid for reproducing.")
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer reviews submissions.")
    with transaction.atomic():
        # Two acceptances at once are counted one after the other.
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        state = submission.state
        is_suspicious = (
            state == SubmissionState.JUDGED and submission.verdict_kind == VerdictKind.SUSPICIOUS.value
        )
        if state not in OPEN_FOR_REVIEW and not (is_suspicious and decision == ReviewDecision.DECLINE):
            raise WrongState(
                f"A submission that is {state} is not open for this review: only a confirmed gain is accepted, "
                "only that or a suspicious one declined."
            )
        made, is_new = Review.objects.get_or_create(
            submission=submission,
            reviewer=actor,
            candidate_tree_id=submission.candidate_tree_id,
            defaults={"decision": decision, "comment": comment},
        )
        if not is_new and made.decision != decision:
            raise WrongState(f"You have decided to {made.decision} this candidate already.")
        if decision == ReviewDecision.DECLINE:
            _decline(submission, actor, comment)
        elif state == SubmissionState.CONFIRMED and has_enough_acceptances(submission):
            move(submission, to=SubmissionState.ACCEPTED, reason="enough people accepted", actor=actor)
            if not has_present_layout(submission.base_tree_id):
                wake_control(submission_id=submission.pk)  # there is nothing to merge: its award vests now
    if decision == ReviewDecision.DECLINE:
        follow_funds(bounty=submission.bounty)
    return submission


def _decline(submission: Submission, actor: User, comment: str) -> None:
    if submission.merged_at is not None:
        raise WrongState("The submission is merged; reverse its award instead.")
    reason = f"declined: {comment}" if comment else "declined"
    if not move(submission, to=SubmissionState.DECLINED, reason=reason, actor=actor):
        raise WrongState("The submission has just changed; look at it again.")
    void_award(submission=submission, reason=reason)
    for run in submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]):
        move(run, to=RunState.LOST, reason="the submission was declined")
    wake_left_behind(lineage_id=submission.bounty.lineage_id)


def rejudge(*, actor: User, submission_id: UUID) -> Submission:
    """Order the gate again after a suspicious verdict or the platform's own failure."""
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer has a submission judged again.")
    submission = find_submission(submission_id)
    if submission.submitter_id == actor.pk:
        raise NotAllowed("Nobody has their own submission judged again.")
    if submission.state != SubmissionState.JUDGED or submission.verdict_kind not in JUDGED_AGAIN:
        raise WrongState("Only a suspicious verdict or an infrastructure error is judged again.")
    judge_from_the_gate(
        submission=submission, actor=actor, reason=f"judged again after {submission.verdict_kind}"
    )
    return submission


def judge_from_the_gate(*, submission: Submission, actor: User, reason: str) -> Run:
    """Forget a judged submission's verdict and order its gate again, elsewhere. Raises WrongState, OldLayout."""
    require_present_layout(submission.base_tree_id, instead=AGAINST_TIP)
    before = submission.verdict_run
    with transaction.atomic():
        is_moved = move(
            submission,
            to=SubmissionState.QUEUED,
            reason=reason,
            actor=actor,
            verdict_kind="",
            verdict_reason="",
            verdict_run=None,
            next_step=NextStep.NONE,
        )
        if not is_moved:
            raise WrongState("The submission has just changed; look at it again.")
        void_award(submission=submission, reason="judged again")  # a suspicious gain still had its own
        against = measured_base(bounty=submission.bounty, of=submission)
        run = queue_run(submission=submission, kind=RunKind.GATE, base=against, elsewhere_than=before)
        wake_left_behind(lineage_id=submission.bounty.lineage_id)
    follow_funds(bounty=submission.bounty)
    return run
