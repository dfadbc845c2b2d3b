"""Merges that were asked for while merges are stopped: they wait for `lifted_merges`."""

from bounty.errors import WrongState
from bounty.models import Submission, SubmissionState, Switch, WaitingMerge
from bounty.services.switches import is_stopped
from bounty.services.transitions import note
from gainshare.accounts.models import User


def merge_has_to_wait(*, actor: User, submission: Submission) -> bool:
    """Whether merges are stopped; then the wish is on record. First thing of the merge's transaction.

    Raises WrongState for what could not be merged anyway.
    """
    if not is_stopped(Switch.MERGES) or submission.merged_at is not None:
        return False
    if submission.state not in (SubmissionState.ACCEPTED, SubmissionState.VESTED):
        raise WrongState(f"Only an accepted submission is merged; this one is {submission.state}.")
    _, is_new = WaitingMerge.objects.get_or_create(submission=submission, defaults={"actor": actor})
    if is_new:
        reason = "its merge waits: merges are stopped"
        note(submission, old=submission.state, new=submission.state, reason=reason, actor=actor)
    return True
