"""Maintainers' actions on runs: cancel a run, or order it again. The old verdict and the log stay on record."""

from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.models import (
    OPEN_RUN_STATES,
    Run,
    RunKind,
    RunState,
    Submission,
    SubmissionState,
)
from bounty.services.permissions import require_maintainer
from bounty.services.reviews import judge_from_the_gate
from bounty.services.runs.lifecycle import end_lost, find_run, queue_aa_run
from bounty.services.submissions import find_submission
from bounty.services.transitions import move
from gainshare.accounts.models import User


def cancel_run(*, actor: User, run_id: UUID, reason: str) -> Run:
    """Cancel a queued or open run; the answer to its next heartbeat tells the runner.

    A submission's run ends as an infrastructure error, which does not count as an attempt, so the author may
    submit again. An A/A run, or a check of a merged tree, ends without a verdict. Cancelling an ended run changes nothing.
    """
    run = _allowed(actor, run_id, reason)
    with transaction.atomic():
        if run.submission_id is not None:
            # Locked before its run, as in leasing and withdrawing.
            Submission.objects.select_for_update(no_key=True).get(pk=run.submission_id)
        run = Run.objects.select_for_update(of=("self",)).get(pk=run_id)
        if run.state not in (RunState.QUEUED, *OPEN_RUN_STATES):
            return find_run(run_id)
        why = f"cancelled by a maintainer: {reason}"
        if run.kind in (RunKind.AA, RunKind.TIP):
            move(run, to=RunState.LOST, reason=why, actor=actor, finished_at=timezone.now())
        else:
            move(run, to=RunState.LOST, reason=why, actor=actor)
            text = (
                f"The run was {why}. This does not count as an attempt. Submit the diff again, or ask a "
                "maintainer to have it judged again."
            )
            end_lost(run=run, reason=why, text=text, actor=actor)
    return find_run(run_id)


def rerun(*, actor: User, run_id: UUID, reason: str) -> Run:
    """Order a run again, with new secrets: after an infrastructure error, or if it is in doubt.

    An A/A run goes to the same runner. A submission with this run's verdict is judged again from the gate on.
    Confirmed gains are measured again by the submission's own actions (remeasure, dispute).
    """
    run = _allowed(actor, run_id, reason)
    if run.state not in (RunState.FINISHED, RunState.LOST):
        raise WrongState("The run has not ended. Cancel it first.")
    if run.kind == RunKind.REPRODUCTION:
        raise WrongState(
            "A reproduction's run cannot be repeated. After a failure of the platform its author submits it again."
        )
    if run.kind == RunKind.TIP:
        raise WrongState(
            "A check of a merged tree is not ordered by hand. Beat orders the next one when it is due."
        )
    if run.submission is None:
        return _again_for_runner(run, actor, reason)
    with transaction.atomic():
        Submission.objects.select_for_update(no_key=True).get(pk=run.submission.pk)
        submission = find_submission(run.submission.pk)
        if submission.state != SubmissionState.JUDGED:
            raise WrongState(
                f"A submission that is {submission.state} cannot be judged again from the gate on. Measure "
                "a confirmed gain again with POST submissions/ID/remeasure/, or by the answer to a dispute."
            )
        return judge_from_the_gate(
            submission=submission,
            actor=actor,
            reason=f"judged again, because {run.kind} run {run.pk} is in doubt: {reason}",
        )


def _again_for_runner(run: Run, actor: User, reason: str) -> Run:
    try:
        with transaction.atomic():
            return queue_aa_run(
                suite=run.suite,
                preset=run.preset,
                hardware=run.hardware,
                tree=run.base_tree,
                reason=f"run {run.pk} again: {reason}",
                runner=run.bound_to,
                actor=actor,
            )
    except IntegrityError:
        raise WrongState("An A/A run of this suite and preset already waits for the runner.") from None


def _allowed(actor: User, run_id: UUID, reason: str) -> Run:
    require_maintainer(actor, "cancel runs and order them again")
    if not reason.strip():
        raise BadRequest("Give a reason; it is recorded in the run's history.")
    run = find_run(run_id)
    if run.submission is not None and run.submission.submitter_id == actor.pk:
        raise NotAllowed(
            "You cannot cancel or repeat a run of your own submission. Withdraw the submission, or ask "
            "another maintainer."
        )
    return run
