"""Actions on a submission's page: which ones a user is offered, and their effects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.http import Http404

from bounty.errors import NotFound
from bounty.models import Dispute, DisputeState, Submission, SubmissionState
from bounty.services import merges, reviews
from bounty.services.access import sees
from bounty.services.awards import lifecycle as awards
from bounty.services.disputes import ANSWERS, answer_dispute, file_dispute, may_dispute
from bounty.services.runs.rechecks import blocks_payment
from bounty.services.series import remeasure
from bounty.services.submissions import find_submission, may_withdraw, withdraw
from bounty.services.trees import has_present_layout
from bounty.visibility import Part
from gainshare.accounts.models import User

S = SubmissionState
OPEN_FOR_REVIEW = (S.CONFIRMED, S.ACCEPTED)


MERGE_WAITS = "Merges are stopped, so this merge waits. It is done automatically when the stop is lifted."


@dataclass(frozen=True, slots=True)
class Action:
    """One action: the message after it, and its function. `text` is the reviewer's comment or the reason."""

    done: str
    run: Callable[[User, UUID, str], Submission]


def disputed(dispute: Dispute) -> Submission:
    return find_submission(dispute.submission_id)


def answer_open_dispute(user: User, submission_id: UUID, text: str, *, answer: str) -> Submission:
    """Answer the oldest open dispute of the submission, which its page shows first."""
    dispute = find_submission(submission_id).disputes.filter(state=DisputeState.OPEN).first()
    if dispute is None:
        raise NotFound(
            "This submission has no open dispute. It may have been answered already: reload the page."
        )
    return disputed(answer_dispute(actor=user, dispute_id=dispute.pk, answer=answer, text=text))


ACTIONS: Mapping[str, Action] = {
    "withdraw": Action(
        "The submission was withdrawn.", lambda user, pk, text: withdraw(actor=user, submission_id=pk)
    ),
    "accept": Action(
        "You accepted the submission.",
        lambda user, pk, text: reviews.review(actor=user, submission_id=pk, decision="accept", comment=text),
    ),
    "decline": Action(
        "You declined the submission.",
        lambda user, pk, text: reviews.review(actor=user, submission_id=pk, decision="decline", comment=text),
    ),
    "merge": Action(
        "The measured tree is merged, and the award has vested.",
        lambda user, pk, text: merges.merge(actor=user, submission_id=pk),
    ),
    "remeasure": Action(
        "The submission is being measured again against the new tip.",
        lambda user, pk, text: remeasure.remeasure(actor=user, submission_id=pk),
    ),
    "rejudge": Action(
        "The gate run was ordered again.",
        lambda user, pk, text: reviews.rejudge(actor=user, submission_id=pk),
    ),
    "dispute": Action(
        "Your dispute was recorded. A maintainer will answer it.",
        lambda user, pk, text: disputed(file_dispute(actor=user, submission_id=pk, text=text)),
    ),
    **{
        f"answer-{answer}": Action("Your answer was recorded.", partial(answer_open_dispute, answer=answer))
        for answer in ANSWERS
    },
    "reverse": Action(
        "The award was taken back.",
        lambda user, pk, text: awards.reverse(actor=user, submission=find_submission(pk), reason=text),
    ),
}


def allowed_actions(submission: Submission, user: User | AnonymousUser) -> set[str]:
    """Actions to offer on the page. The services check the permission again."""
    if not isinstance(user, User):
        return set()
    state, offered = submission.state, set()
    if submission.submitter_id == user.pk and may_dispute(submission):
        offered.add("dispute")
    is_author, is_merged = submission.submitter_id == user.pk, submission.merged_at is not None
    if is_author and may_withdraw(submission):
        offered.add("withdraw")
    if not sees(user, Part.COURSE, submission, is_look=False):
        return offered  # what else is offered would tell the state
    has_moved = submission.bounty.lineage.tip_id != submission.base_tree_id
    is_old = not has_present_layout(submission.base_tree_id)  # cannot be measured or merged
    if (
        state in OPEN_FOR_REVIEW
        and has_moved
        and not is_old
        and not is_merged
        and (is_author or user.is_maintainer)
    ):
        offered.add("remeasure")
    if not user.is_maintainer:
        return offered
    may_merge = state in (S.ACCEPTED, S.VESTED) and not is_merged and not has_moved and not is_old
    if may_merge and not blocks_payment(awards.standing_award(submission)):
        offered.add("merge")
    if is_author:
        return offered
    if submission.disputes.filter(state=DisputeState.OPEN).exclude(author=user).exists():
        offered.add("answer")
    if state in OPEN_FOR_REVIEW and not submission.reviews.filter(
        reviewer=user, candidate_tree=submission.candidate_tree_id
    ):
        offered |= {"accept", "decline"}
    if state == S.JUDGED and submission.verdict_kind in reviews.JUDGED_AGAIN:
        offered |= set() if is_old else {"rejudge"}
        if submission.verdict_kind == "suspicious":
            offered.add("decline")
    if state == S.VESTED:
        offered.add("reverse")
    return offered


def perform(user: User, submission_id: UUID, action: str, text: str) -> str:
    """Do one of `ACTIONS` and return the message for the user. Raises Http404 and the services' errors."""
    chosen = ACTIONS[action]
    try:
        after = chosen.run(user, submission_id, text)
    except NotFound as error:
        raise Http404(error.message) from None
    return MERGE_WAITS if action == "merge" and after.merged_at is None else chosen.done
