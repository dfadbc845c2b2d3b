"""The rows that say which submissions' code is on a branch and what they wait for. Inside the caller's transaction."""

from django.utils import timezone

from bounty.models import Head, Landing, LandingState, Lineage, Submission
from bounty.services.transitions import note
from bounty.services.wakeups import wake_report

OPEN = (LandingState.WAITING, LandingState.AGAIN, LandingState.DIFFERS)


def standing_landing(submission: Submission) -> Landing | None:
    """Where the branch has the submission's code, not merged yet; ``problem`` says what it waits for."""
    return submission.landings.filter(ended_at=None).first()


def record(
    *, lineage: Lineage, submission: Submission, commit: str, tree_hash: str, state: str, problem: str
) -> Landing:
    """Write down that the branch has the submission's code. Repeating it changes nothing."""
    said = {"commit": commit, "tree_hash": tree_hash, "state": state, "problem": problem}
    landing, is_new = Landing.objects.get_or_create(
        submission=submission, ended_at=None, defaults={"lineage": lineage, **said}
    )
    if is_new:
        note(submission, old=submission.state, new=submission.state, reason=problem)
    elif not Landing.objects.filter(pk=landing.pk, **said).exists():
        Landing.objects.filter(pk=landing.pk, ended_at=None).update(**said)
    else:
        return landing
    tell(submission)
    landing.refresh_from_db()
    return landing


def end_others(lineage: Lineage, keep: set[int]) -> None:
    """End the lineage's landings that are not among these: merged, decided, or no longer on the branch."""
    for landing in Landing.objects.filter(lineage=lineage, ended_at=None).exclude(pk__in=keep):
        submission = Submission.objects.get(pk=landing.submission_id)
        to = LandingState.ENDED if submission.merged_at is None else LandingState.MERGED
        changed = Landing.objects.filter(pk=landing.pk, ended_at=None).update(
            state=to, problem="", ended_at=timezone.now()
        )
        if changed and to == LandingState.ENDED:
            reason = "the branch no longer waits for this submission"
            note(submission, old=submission.state, new=submission.state, reason=reason)
        tell(submission)


def tell(submission: Submission) -> None:
    """Have the submission's pull request told, if it has one."""
    head = Head.objects.filter(submission=submission).first()
    if head is not None:
        wake_report(pull_request_id=head.pull_request_id)
