"""Best tree of a series (lineage, suite, hardware), which candidates are measured against.

The best tree is the candidate of the newest booked award that was not taken back, across all bounties of the
series; a new series begins at the lineage's tip. It is read from the awards each time, so a reversed award no
longer counts. A submission is never measured against its own award, nor against later ones. In a renewed
lineage, awards for trees of an older layout do not count: the series begins again at the tip.
"""

from django.db.models import F, Q, QuerySet

from bounty.models import (
    Award,
    AwardRole,
    AwardState,
    Bounty,
    Lineage,
    NextStep,
    Run,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.services.trees import has_present_layout
from bounty.services.wakeups import wake_control

# A returned award is a gain like any other, whose author did not claim it.
STANDING = (AwardState.UNVESTED, AwardState.VESTED, AwardState.RETURNED)
# States in which a submission follows the best tree. `is_left_behind` decides.
MAY_BE_LEFT_BEHIND = (
    Q(merged_at=None)
    & ~Q(base_tree=F("bounty__lineage__tip"))
    & (
        Q(
            state__in=[
                SubmissionState.QUEUED,
                SubmissionState.CONFIRMING,
                SubmissionState.CONFIRMED,
                SubmissionState.ACCEPTED,
            ]
        )
        | (Q(state=SubmissionState.JUDGED) & ~Q(next_step=NextStep.NONE))
    )
)


def series_awards(bounty: Bounty) -> QuerySet[Award]:
    """Booked awards of the bounty's series that were not taken back, across all its bounties, without supplements."""
    return Award.objects.exclude(role=AwardRole.SUPPLEMENT).filter(
        state__in=STANDING,
        submission__bounty__lineage=bounty.lineage_id,
        submission__bounty__suite=bounty.suite,
        submission__bounty__hardware=bounty.hardware,
    )


def best_award(*, bounty: Bounty, of: Submission | None = None) -> Award | None:
    """The newest award of the bounty's series; for the submission ``of`` the newest one before its own.

    Fixes of bugs are not in a series: each is judged against the lineage's tip.
    """
    if bounty.is_for_a_bug:
        return None
    awards = series_awards(bounty)
    if of is not None:
        own = awards.filter(submission=of).first()
        awards = awards.exclude(submission=of)
        if own is not None:
            awards = awards.filter(series_at__lt=own.series_at)
    newest_first = awards.order_by("-series_at", "-created_at")
    trees = list(newest_first.values_list("pk", "confirmation_run__candidate_tree"))
    counting = [pk for pk, tree in trees if has_present_layout(tree)]
    if not counting and trees and not has_present_layout(_tip(bounty).pk):
        counting = [trees[0][0]]  # not renewed yet: all trees of this lineage have the older layout
    found = Award.objects.select_related("submission", "confirmation_run__candidate_tree")
    return found.get(pk=counting[0]) if counting else None


def measured_base(*, bounty: Bounty, of: Submission | None = None) -> StoredTree:
    """The tree that a candidate is measured against now: the best tree while that is not merged, then the tip.

    A merge from another suite that made the tip faster here thus moves the base. Where it made the tip slower, a gain
    has to beat the best tree too (`merged_best`).
    """
    return patch_base(bounty=bounty, of=of)


def merged_best(*, bounty: Bounty, of: Submission | None = None) -> StoredTree | None:
    """The best tree of the series, if it was merged and the tip is another tree by now."""
    best = best_award(bounty=bounty, of=of)
    if best is None or best.confirmation_run is None or best.submission.merged_at is None:
        return None
    tree = best.confirmation_run.candidate_tree
    return None if tree.pk == _tip(bounty).pk else tree


def patch_base(*, bounty: Bounty, of: Submission | None = None) -> StoredTree:
    """The tree that a diff must be made against: the tip, or the best tree while that is not merged."""
    best = best_award(bounty=bounty, of=of)
    if best is None or best.confirmation_run is None or best.submission.merged_at is not None:
        return _tip(bounty)
    return best.confirmation_run.candidate_tree


def is_left_behind(submission: Submission) -> bool:
    """Whether the diff's base is no longer the tip or an unmerged best tree.

    The measured tree could then never be merged. A submission on a tree of an older layout is never left
    behind, because it cannot be measured again: `renewal` ends it, or its award vests as it was measured.
    """
    bounty = submission.bounty
    if not has_present_layout(submission.base_tree_id):
        return False
    if submission.base_tree_id == _tip(bounty).pk:
        return False
    return submission.base_tree_id != patch_base(bounty=bounty, of=submission).pk


def measured_present_trees(run: Run, submission: Submission) -> bool:
    """Whether a pricing run measured the submission's present candidate against the present base."""
    against = measured_base(bounty=submission.bounty, of=submission)
    return (
        run.candidate_tree_id == submission.candidate_tree_id
        and run.base_tree_id == against.pk
        and not is_left_behind(submission)
    )


def wake_left_behind(*, lineage_id: int) -> None:
    """Wake control workers for the lineage's open submissions, after a tip or a best tree moved."""
    waiting = Submission.objects.filter(MAY_BE_LEFT_BEHIND, bounty__lineage=lineage_id)
    for submission_id in waiting.values_list("pk", flat=True):
        wake_control(submission_id=submission_id)


def _tip(bounty: Bounty) -> StoredTree:
    return Lineage.objects.select_related("tip").get(pk=bounty.lineage_id).tip
