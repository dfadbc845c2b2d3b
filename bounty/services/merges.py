"""Merges: a measured candidate becomes the lineage's tip. While merges are stopped they wait for beat."""

import logging
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from bounty.errors import BountyError, TipMoved, WrongBase, WrongState
from bounty.models import Lineage, Submission, SubmissionState, Switch, WaitingMerge
from bounty.services.awards.advance import advance_submission
from bounty.services.awards.lifecycle import standing_award
from bounty.services.awards.unmeasured import require_paths_accepted
from bounty.services.emergency import is_stopped
from bounty.services.permissions import require_maintainer
from bounty.services.runs.old_trees import stops_merges
from bounty.services.runs.rechecks import blocks_payment
from bounty.services.series.best import wake_left_behind
from bounty.services.series.remeasure import applied_to
from bounty.services.submissions import find_submission
from bounty.services.transitions import note
from bounty.services.trees import AGAINST_TIP, has_present_layout, require_present_layout
from bounty.services.wakeups import wake_control
from gainshare.accounts.models import User

logger = logging.getLogger(__name__)


def merge(*, actor: User, submission_id: UUID) -> Submission:
    """Make the measured candidate the lineage's tip, and vest the award. Repeating changes nothing. While merges
    are stopped it waits, unmerged, and is done when they are lifted.

    Raises TipMoved when the tip is no longer the tree that the diff was made against: the merged tree would not
    be the measured one. A candidate of an older layout never becomes the tip: its award vests as it was measured,
    and one that is paid already raises OldLayout.
    """
    require_maintainer(actor, "merge")
    submission = find_submission(submission_id)
    with transaction.atomic():
        if _has_to_wait(actor=actor, submission=submission):
            return submission
        lineage = Lineage.objects.select_for_update(no_key=True).get(pk=submission.bounty.lineage_id)
        submission = find_submission(submission_id)
        if _has_to_wait(actor=actor, submission=submission):
            return submission  # the lineage was stopped while this waited for its lock
        if submission.merged_at is None:
            if submission.state not in (SubmissionState.ACCEPTED, SubmissionState.VESTED):
                raise WrongState(
                    f"Only an accepted submission can be merged; this one is {submission.state}."
                )
            if submission.state == SubmissionState.VESTED:
                require_present_layout(submission.base_tree_id, instead=AGAINST_TIP)
            if has_present_layout(submission.base_tree_id):
                _merge(submission, lineage, actor, f"merged submission {submission.pk}")
                wake_left_behind(lineage_id=lineage.pk)
    fault_point("control.merged")
    return advance_submission(submission_id=submission_id)


def merge_landed(*, lineage: Lineage, submission_id: UUID, where: str) -> None:
    """Make the candidate the tip, because the branch has that very tree. No award vests by it.

    Inside a transaction that holds the lineage's lock. Raises WrongState with what the merge waits for, and TipMoved.
    """
    submission = find_submission(submission_id)
    if is_stopped(Switch.MERGES):
        raise WrongState("It waits, because merges are stopped.")
    if reason := _what_a_merge_waits_for(lineage):
        raise WrongState(f"Here, {reason}.")
    require_present_layout(submission.base_tree_id, instead=AGAINST_TIP)
    _merge(submission, lineage, None, f"merged submission {submission.pk}: {where}")
    wake_control(submission_id=submission.pk)
    wake_left_behind(lineage_id=lineage.pk)


def _merge(submission: Submission, lineage: Lineage, actor: User | None, reason: str) -> None:
    # A review that declines it holds this lock: the second one finds what the first has decided.
    Submission.objects.select_for_update(no_key=True).get(pk=submission.pk)
    submission.refresh_from_db(fields=["state", "merged_at", "base_tree", "candidate_tree"])
    if submission.state not in (SubmissionState.ACCEPTED, SubmissionState.VESTED):
        raise WrongState(f"Only an accepted submission can be merged; this one is {submission.state}.")
    award = standing_award(submission)
    assert award is not None and award.confirmation_run is not None, "an accepted submission has its award"
    if lineage.tip_id != submission.base_tree_id and submission.state == SubmissionState.VESTED:
        raise TipMoved(
            "The tip has moved since this gain was paid, so the measured tree can no longer be merged. "
            "Its author can submit the change again."
        )
    if lineage.tip_id != submission.base_tree_id:
        raise TipMoved(
            f"The lineage's tip moved to {lineage.tip_id[:12]}, and this diff is against "
            f"{submission.base_tree_id[:12]}. It will be applied to the new tip and measured again "
            f"automatically; POST submissions/{submission.pk}/remeasure/ starts that now."
        )
    if blocks_payment(award):
        raise WrongState(
            "The random re-measurement of this gain has not ended, or did not find the gain again. Wait "
            "for it, or for a maintainer's decision."
        )
    require_paths_accepted(submission)
    try:
        merged = applied_to(lineage.tip, submission)
    except WrongBase as refusal:
        raise TipMoved(f"The diff does not apply to the tip: {refusal.message}") from None
    if merged.pk != award.confirmation_run.candidate_tree_id:
        raise TipMoved("The merged tree would not be the measured one. Have the submission measured again.")
    changed = Lineage.objects.filter(pk=lineage.pk, tip=submission.base_tree_id).update(tip=merged)
    assert changed, "the lineage's row is locked"
    note(
        lineage,
        old=submission.base_tree_id,
        new=merged.pk,
        reason=reason,
        actor=actor,
    )
    Submission.objects.filter(pk=submission.pk, merged_at=None).update(merged_at=timezone.now())


def _has_to_wait(*, actor: User, submission: Submission) -> bool:
    """Whether merges are stopped, all or this lineage's; if so, the requested merge is recorded. Called first in the
    merge's transaction, and again under the lineage's lock.

    Raises WrongState for what could not be merged anyway.
    """
    if submission.merged_at is not None:
        return False
    reason = "the merge waits, because merges are stopped"
    if not is_stopped(Switch.MERGES):
        reason = _what_a_merge_waits_for(submission.bounty.lineage)
        if not reason:
            return False
    if submission.state not in (SubmissionState.ACCEPTED, SubmissionState.VESTED):
        raise WrongState(f"Only an accepted submission can be merged; this one is {submission.state}.")
    _, is_new = WaitingMerge.objects.get_or_create(submission=submission, defaults={"actor": actor})
    if is_new:
        note(submission, old=submission.state, new=submission.state, reason=reason, actor=actor)
    return True


def _what_a_merge_waits_for(lineage: Lineage) -> str:
    """Why this lineage's merges wait; empty where they do not."""
    if stops_merges(lineage_id=lineage.pk):
        return (
            "the merge waits for a maintainer's decision about a base that may be slower than it was paid for"
        )
    if lineage.standing_repository_stop is not None:
        return "the merge waits until a maintainer releases the lineage, because its branch lost the tip"
    return ""


def merge_waiting() -> int:
    """Do the waiting merges in their order, unless merges are stopped; return the number merged.

    A merge that is no longer possible is dropped; the submission's history says why.
    """
    merged = 0
    for waiting in WaitingMerge.objects.select_related("submission", "actor"):
        if is_stopped(Switch.MERGES):
            break
        try:
            done = merge(actor=waiting.actor, submission_id=waiting.submission_id)
        except BountyError as error:
            logger.warning("the waiting merge of %s was refused: %s", waiting.submission_id, error.message)
            row = waiting.submission
            note(
                row, old=row.state, new=row.state, reason=f"not merged: {error.message}", actor=waiting.actor
            )
        else:
            if done.merged_at is None:
                continue  # stopped again in between
            merged += 1
        waiting.delete()
    return merged
