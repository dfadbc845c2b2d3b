"""What people decide about a judged submission: accept, decline, merge, measure again, judge again."""

from uuid import UUID

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from benchmarks.patches import PatchError, apply_patch, parse_patch
from benchmarks.trees import TreeError
from benchmarks.verdicts import VerdictKind
from bounty.errors import BadRequest, NotAllowed, TipMoved, WrongBase, WrongState
from bounty.models import (
    Lineage,
    NextStep,
    Review,
    ReviewDecision,
    RunKind,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.rewards import required_reviewers
from bounty.services.advance import advance_submission
from bounty.services.awards import standing_award, void_award
from bounty.services.bounties import follow_funds
from bounty.services.runs import queue_run
from bounty.services.series import measured_base
from bounty.services.submissions import find_submission
from bounty.services.transitions import move, note
from bounty.services.trees import blob_store, load_tree, store_tree
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
        elif state == SubmissionState.CONFIRMED and _has_enough(submission):
            move(submission, to=SubmissionState.ACCEPTED, reason="enough people accepted", actor=actor)
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


def _has_enough(submission: Submission) -> bool:
    award = standing_award(submission)
    assert award is not None and award.amount_microcredits is not None, "a confirmed submission has its award"
    needed = required_reviewers(
        amount_microcredits=award.amount_microcredits,
        min_reviewers=submission.bounty.min_reviewers,
        two_above_microcredits=submission.bounty.two_reviews_above_microcredits,
    )
    accepted = submission.reviews.filter(
        decision=ReviewDecision.ACCEPT, candidate_tree=submission.candidate_tree_id
    )
    return accepted.count() >= needed


def merge(*, actor: User, submission_id: UUID) -> Submission:
    """Make the measured candidate the lineage's tip, and vest the award. Repeating changes nothing.

    Raises TipMoved when the tip is no longer the tree that the diff was made against: the merged tree would not
    be the measured one.
    """
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer merges.")
    submission = find_submission(submission_id)
    with transaction.atomic():
        lineage = Lineage.objects.select_for_update(no_key=True).get(pk=submission.bounty.lineage_id)
        submission = find_submission(submission_id)
        if submission.merged_at is None:
            if submission.state not in (SubmissionState.ACCEPTED, SubmissionState.VESTED):
                raise WrongState(f"Only an accepted submission is merged; this one is {submission.state}.")
            _merge(submission, lineage, actor)
    fault_point("control.merged")
    return advance_submission(submission_id=submission_id)


def _merge(submission: Submission, lineage: Lineage, actor: User) -> None:
    award = standing_award(submission)
    assert award is not None and award.confirmation_run is not None, "an accepted submission has its award"
    if lineage.tip_id != submission.base_tree_id:
        raise TipMoved(
            f"The lineage's tip is {lineage.tip_id[:12]} and this diff is against {submission.base_tree_id[:12]}. "
            f"Have it measured again: POST submissions/{submission.pk}/remeasure/."
        )
    merged = _applied_to_tip(submission, lineage)
    if merged.pk != award.confirmation_run.candidate_tree_id:
        raise TipMoved("The merged tree is not the measured one; have it measured again.")
    changed = Lineage.objects.filter(pk=lineage.pk, tip=submission.base_tree_id).update(tip=merged)
    assert changed, "the lineage's row is locked"
    note(
        lineage,
        old=submission.base_tree_id,
        new=merged.pk,
        reason=f"merged submission {submission.pk}",
        actor=actor,
    )
    Submission.objects.filter(pk=submission.pk, merged_at=None).update(merged_at=timezone.now())


def _applied_to_tip(submission: Submission, lineage: Lineage) -> StoredTree:
    store = blob_store()
    patch = parse_patch(store.get(submission.diff_blob))
    try:
        tree = apply_patch(load_tree(lineage.tip), patch, store)
    except PatchError as error:
        raise WrongBase(
            f"The diff does not apply to the lineage's tip ({error.message}). "
            "Its author must submit it again, made against the tip."
        ) from None
    except TreeError as error:
        raise BadRequest(error.message, code=error.code, status=500) from None
    return store_tree(tree=tree, parent=lineage.tip, created_by=submission.submitter)


def remeasure(*, actor: User, submission_id: UUID) -> Submission:
    """Apply a confirmed diff to the tip that has moved, and judge the result from the gate on.

    The old award goes back to escrow; acceptances of the old candidate lapse. Raises WrongBase when the diff does
    not apply to the tip exactly.
    """
    submission = find_submission(submission_id)
    if not actor.is_maintainer and submission.submitter_id != actor.pk:
        raise NotAllowed("Only a maintainer or the author has a submission measured again.")
    with transaction.atomic():
        lineage = Lineage.objects.select_for_update(no_key=True).get(pk=submission.bounty.lineage_id)
        submission = find_submission(submission_id)
        if submission.state not in OPEN_FOR_REVIEW or submission.merged_at is not None:
            raise WrongState(f"A submission that is {submission.state} is not measured again.")
        if lineage.tip_id == submission.base_tree_id:
            raise WrongState("The tip is still the tree that this was measured from: merge it.")
        candidate = _applied_to_tip(submission, lineage)
        is_moved = move(
            submission,
            to=SubmissionState.QUEUED,
            reason="measured again against the moved tip",
            actor=actor,
            base_tree=lineage.tip,
            candidate_tree=candidate,
            verdict_kind="",
            verdict_reason="",
            judged_at=None,
            confirmed_at=None,
        )
        if not is_moved:
            raise WrongState("The submission has just changed; look at it again.")
        void_award(submission=submission, reason="measured again")
        against = measured_base(bounty=submission.bounty, but_not=submission)
        queue_run(submission=submission, kind=RunKind.GATE, base=against)
    follow_funds(bounty=submission.bounty)
    return submission


def rejudge(*, actor: User, submission_id: UUID) -> Submission:
    """Order the gate again after a suspicious verdict or the platform's own failure."""
    if not actor.is_maintainer:
        raise NotAllowed("Only a maintainer has a submission judged again.")
    submission = find_submission(submission_id)
    if submission.submitter_id == actor.pk:
        raise NotAllowed("Nobody has their own submission judged again.")
    if submission.state != SubmissionState.JUDGED or submission.verdict_kind not in JUDGED_AGAIN:
        raise WrongState("Only a suspicious verdict or an infrastructure error is judged again.")
    with transaction.atomic():
        is_moved = move(
            submission,
            to=SubmissionState.QUEUED,
            reason=f"judged again after {submission.verdict_kind}",
            actor=actor,
            verdict_kind="",
            verdict_reason="",
            next_step=NextStep.NONE,
        )
        if not is_moved:
            raise WrongState("The submission has just changed; look at it again.")
        against = measured_base(bounty=submission.bounty, but_not=submission)
        queue_run(submission=submission, kind=RunKind.GATE, base=against)
    return submission
