"""What a head has come to, as far as anyone may know: nothing yet, or an outcome that a final check run tells.

Read from rows alone. Who may know what is decided in `bounty.visibility`: until a submission is decided, and while it is in
doubt, there is no outcome here.
"""

import hashlib
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser
from django.db.models import F, Q

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.units import signed_percent
from bounty.github.pulls.sealing import NOTHING_CHANGED
from bounty.models import (
    Award,
    AwardState,
    Head,
    HeadState,
    NextStep,
    PullRequestState,
    StateChange,
    Submission,
    SubmissionState,
)
from bounty.services.access import is_decided, sees
from bounty.services.awards.lifecycle import standing_award
from bounty.visibility import Part, without_figures

S = SubmissionState
ENDS = (S.REJECTED, S.JUDGED, S.CONFIRMED, S.DECLINED, S.REVERSED, S.WITHDRAWN)
BOOKED = (AwardState.UNVESTED, AwardState.VESTED, AwardState.RETURNED)
WITHHELD = "Its author and maintainers read the whole reason on the submission's page."
CONCLUSIONS = {
    VerdictKind.GAIN: "neutral",  # a gain without an award: the reason says why
    VerdictKind.NO_GAIN: "neutral",
    VerdictKind.PATCH_REJECTED: "action_required",
}  # every other verdict is a failure


@dataclass(frozen=True, slots=True)
class Outcome:
    """An outcome of a head. ``key`` names it: another key is another outcome, told by another check run.

    ``conclusion`` is GitHub's. ``title`` is plain text, ``reason`` what people and code may have written into.
    """

    key: str
    conclusion: str
    title: str
    reason: str = ""


def outcome_of(head: Head) -> Outcome | None:
    """The head's outcome; None while there is none that everyone may know."""
    if head.is_of_queue:
        return Outcome("queue", "neutral", "A merge queue's commit is not judged by itself")
    if head.submission is not None:
        found = _of_submission(head.submission)
        return found if found is None else _with_unmeasured(found, head)
    if changes_nothing(head):
        return Outcome("nothing", "neutral", "Nothing to judge: the folder is not changed")
    if head.state == HeadState.REFUSED:
        return Outcome("refused", "action_required", "Not judged: see what to change", head.problem)
    if head.state == HeadState.REPLACED:
        return Outcome("replaced", "cancelled", "A newer head took its place before it was measured")
    if head.pull_request.state == PullRequestState.MERGED:
        return Outcome("merged", "neutral", "Merged before it was judged")
    if head.pull_request.state == PullRequestState.CLOSED:
        return Outcome("closed", "cancelled", "Closed before it was judged")
    return None


def changes_nothing(head: Head) -> bool:
    """Whether the head leaves the bound folder as it is, so that there is nothing to judge."""
    return not head.diff_blob and head.problem.startswith(NOTHING_CHANGED)


def is_public(submission: Submission) -> bool:
    """Whether everyone may see its figures now."""
    return sees(AnonymousUser(), Part.FIGURES, submission)


def booked_award(submission: Submission) -> Award | None:
    """The award that was booked after confirmation and guard rails, unless it was taken back from a gain that no longer counts."""
    award = standing_award(submission)
    return award if award is not None and award.state in BOOKED else None


def lacks_acceptance(head: Head) -> bool:
    """Whether it changes code outside of the folder that nobody measured, and nobody has accepted that."""
    return bool(head.unmeasured_paths) and head.unmeasured_accepted_at is None


def _of_submission(submission: Submission) -> Outcome | None:
    if submission.state == S.WITHDRAWN:
        return Outcome(_key(submission), "cancelled", "Withdrawn by its author")
    if not is_decided(submission):
        return None
    match submission.state:
        case S.CONFIRMED | S.ACCEPTED | S.VESTED:
            return _gain(submission)
        case S.DECLINED:
            return Outcome(
                _key(submission), "failure", "Declined: its award went back to the escrow", _words(submission)
            )
        case S.REVERSED:
            return Outcome(_key(submission), "failure", "Its award was taken back", _words(submission))
    return _refused(submission)


def _gain(submission: Submission) -> Outcome | None:
    award = booked_award(submission)
    if award is None:
        return None
    title = "The fix is confirmed"
    if award.log_ppm_bound is not None:
        title = f"Gain confirmed: at least {signed_percent(award.log_ppm_bound)}"
    return Outcome(_key(submission), "success", title, _reason(submission))


def _refused(submission: Submission) -> Outcome | None:
    if submission.next_step != NextStep.NONE or not submission.verdict_kind:
        return None
    kind = VerdictKind(submission.verdict_kind)
    conclusion = CONCLUSIONS.get(kind, "failure")
    title = f"Verdict: {kind.replace('_', ' ')}"
    if submission.state == S.REJECTED:
        conclusion, title = "failure", "Rejected before anything was run"
    elif kind == VerdictKind.GAIN:
        title = "A gain, but no award"
    return Outcome(_key(submission), conclusion, title, _reason(submission))


def _with_unmeasured(found: Outcome, head: Head) -> Outcome:
    """A check that would let a merge pass asks for an action instead while nobody has accepted unmeasured code."""
    if not lacks_acceptance(head) or found.conclusion not in ("success", "neutral"):
        return found
    return Outcome(
        f"{found.key}:unmeasured",
        "action_required",
        f"{found.title}; changes code that nobody measured",
        found.reason,
    )


def _reason(submission: Submission) -> str:
    reason = submission.verdict_reason
    return reason if is_public(submission) else without_figures(reason) or WITHHELD


def _words(submission: Submission) -> str:
    """The reason of the change that ended it."""
    change = _change(submission)
    return "" if change is None else change.reason


def _key(submission: Submission) -> str:
    change = _change(submission)
    key = "unknown" if change is None else str(change.pk)
    if submission.state != S.JUDGED:
        return key
    verdict = f"{submission.verdict_kind} {submission.verdict_reason}"  # it may change without the state
    return f"{key}:{hashlib.sha256(verdict.encode()).hexdigest()[:12]}"


def _change(submission: Submission) -> StateChange | None:
    """The change that brought its present outcome: reviews, merges and vesting are none."""
    ended = Q(new__in=ENDS) & ~Q(old=F("new"))
    changes = StateChange.objects.filter(subject="submission", subject_id=str(submission.pk))
    return changes.filter(ended | Q(old=S.REVERSED) & ~Q(new=S.REVERSED)).order_by("-pk").first()
