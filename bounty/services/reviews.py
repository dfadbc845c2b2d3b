"""Reviews: accept or decline a judged submission, or have it judged again."""

from collections.abc import Iterable
from uuid import UUID

from django.db import transaction

from benchmarks.judging.verdicts import VerdictKind
from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.models import (
    OPEN_RUN_STATES,
    Approval,
    ApprovalState,
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
from bounty.services.access import require_uninvolved
from bounty.services.awards.lifecycle import has_enough_acceptances, void_award
from bounty.services.awards.unmeasured import accept_paths, payees
from bounty.services.bounties import follow_funds
from bounty.services.permissions import require_maintainer
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base, wake_left_behind
from bounty.services.submissions import find_submission
from bounty.services.transitions import move, must_move, wake_report_of
from bounty.services.trees import AGAINST_TIP, has_present_layout, require_present_layout
from bounty.services.wakeups import wake_control, wake_fetch
from gainshare.accounts.models import User

OPEN_FOR_REVIEW = (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED)
JUDGED_AGAIN = (VerdictKind.SUSPICIOUS.value, VerdictKind.INFRASTRUCTURE_ERROR.value)


def review(
    *,
    actor: User,
    submission_id: UUID,
    decision: str,
    comment: str = "",
    unmeasured_paths: Iterable[str] = (),
) -> Submission:
    """Accept or decline a submission as a maintainer other than its author. Enough acceptances accept it; one
    decline ends it and returns the award to escrow.

    Where its pull request changes files that nobody measured, an acceptance names each, in ``unmeasured_paths`` or as a
    word of its comment; else it is refused with their list.
    """
    if decision not in ReviewDecision.values:
        raise BadRequest("The decision must be accept or decline.")
    if find_submission(submission_id).submitter_id == actor.pk:
        raise NotAllowed("You cannot review your own submission. Another maintainer has to review it.")
    if Award.objects.filter(submission=submission_id, reproduction__author=actor).exists():
        raise NotAllowed(
            "You cannot review this fix, because you are paid for reproducing its bug. Another "
            "maintainer has to review it."
        )
    if actor.pk in payees(find_submission(submission_id)):
        raise NotAllowed(
            "You cannot review this submission, because its pull request is yours. Another maintainer has to review it."
        )
    require_maintainer(actor, "review submissions")
    require_uninvolved(actor, find_submission(submission_id))
    with transaction.atomic():
        # The lock serialises the count of acceptances.
        Submission.objects.select_for_update(no_key=True).get(pk=submission_id)
        submission = find_submission(submission_id)
        state = submission.state
        is_suspicious = (
            state == SubmissionState.JUDGED and submission.verdict_kind == VerdictKind.SUSPICIOUS.value
        )
        if state not in OPEN_FOR_REVIEW and not (is_suspicious and decision == ReviewDecision.DECLINE):
            raise WrongState(
                f"A submission that is {state} cannot be reviewed so. You can accept or decline a confirmed "
                "gain, and decline a suspicious one."
            )
        if decision == ReviewDecision.ACCEPT and accept_paths(
            submission, named={*unmeasured_paths, *comment.split()}
        ):
            wake_control(submission_id=submission.pk)  # its award may have waited for this alone
        made, is_new = Review.objects.get_or_create(
            submission=submission,
            reviewer=actor,
            candidate_tree_id=submission.candidate_tree_id,
            defaults={"decision": decision, "comment": comment},
        )
        if not is_new and made.decision != decision:
            raise WrongState(
                f"You have already decided to {made.decision} this candidate. A decision cannot be changed."
            )
        if is_new:
            wake_report_of(submission)  # the first of two acceptances changes no state
        if decision == ReviewDecision.ACCEPT:  # counts again after an approval on GitHub was dismissed
            Approval.objects.filter(counted_as=made, state=ApprovalState.DISMISSED).update(counted_as=None)
        if decision == ReviewDecision.DECLINE:
            decline(submission=submission, actor=actor, comment=comment)
        elif state == SubmissionState.CONFIRMED and has_enough_acceptances(submission):
            move(submission, to=SubmissionState.ACCEPTED, reason="enough people accepted", actor=actor)
            if not has_present_layout(submission.base_tree_id):
                wake_control(submission_id=submission.pk)  # nothing is merged, so its award vests now
        if submission.landings.filter(ended_at=None).exists():
            wake_fetch(lineage=submission.bounty.lineage.name)  # its code waits on the branch for this
    if decision == ReviewDecision.DECLINE:
        follow_funds(bounty=submission.bounty)
    return submission


def decline(*, submission: Submission, actor: User, comment: str) -> None:
    """Decline a locked submission that is not merged; its award returns to escrow. Raises WrongState."""
    if submission.merged_at is not None:
        raise WrongState("The submission is already merged. Reverse its award instead.")
    reason = f"declined: {comment}" if comment else "declined"
    must_move(submission, to=SubmissionState.DECLINED, reason=reason, actor=actor)
    void_award(submission=submission, reason=reason)
    for run in submission.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]):
        move(run, to=RunState.LOST, reason="the submission was declined")
    wake_left_behind(lineage_id=submission.bounty.lineage_id)


def rejudge(*, actor: User, submission_id: UUID) -> Submission:
    """Order the gate again after a suspicious verdict or the platform's own failure."""
    require_maintainer(actor, "have a submission judged again")
    submission = find_submission(submission_id)
    if submission.submitter_id == actor.pk:
        raise NotAllowed("You cannot have your own submission judged again. Ask another maintainer.")
    require_uninvolved(actor, submission)
    if submission.state != SubmissionState.JUDGED or submission.verdict_kind not in JUDGED_AGAIN:
        raise WrongState(
            "Only a submission with a suspicious verdict or an infrastructure error can be judged again."
        )
    judge_from_the_gate(
        submission=submission, actor=actor, reason=f"judged again after {submission.verdict_kind}"
    )
    return submission


def judge_from_the_gate(*, submission: Submission, actor: User, reason: str) -> Run:
    """Reset a verdict and order the gate again, elsewhere if possible. Raises WrongState, OldLayout."""
    require_present_layout(submission.base_tree_id, instead=AGAINST_TIP)
    before = submission.verdict_run
    with transaction.atomic():
        must_move(
            submission,
            to=SubmissionState.QUEUED,
            reason=reason,
            actor=actor,
            verdict_kind="",
            verdict_reason="",
            verdict_run=None,
            next_step=NextStep.NONE,
        )
        void_award(submission=submission, reason="judged again")  # a suspicious gain may still have an award
        against = measured_base(bounty=submission.bounty, of=submission)
        run = queue_run(submission=submission, kind=RunKind.GATE, base=against, avoid_host_of=before)
        wake_left_behind(lineage_id=submission.bounty.lineage_id)
    follow_funds(bounty=submission.bounty)
    return run
