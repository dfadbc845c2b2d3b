"""The best tree so far of one series (lineage, suite, hardware): what candidates must be measured against.

The best tree is the candidate of the newest booked award that stands, across all bounties of the series; a new
series begins at the lineage's tip. It is read from the awards each time, so an award that is taken back takes
its tree with it.
"""

from bounty.models import Award, AwardState, Bounty, Lineage, StoredTree, Submission

STANDING = (AwardState.UNVESTED, AwardState.VESTED)


def best_award(*, bounty: Bounty, but_not: Submission | None = None) -> Award | None:
    """The newest standing award of the bounty's series; ``but_not`` leaves one submission's own out."""
    awards = Award.objects.filter(
        state__in=STANDING,
        submission__bounty__lineage=bounty.lineage_id,
        submission__bounty__suite=bounty.suite,
        submission__bounty__hardware=bounty.hardware,
    )
    if but_not is not None:
        awards = awards.exclude(submission=but_not)
    return (
        awards.select_related("submission", "confirmation_run__candidate_tree")
        .order_by("-booked_at", "-created_at")
        .first()
    )


def measured_base(*, bounty: Bounty, but_not: Submission | None = None) -> StoredTree:
    """The tree that a candidate is timed against now."""
    best = best_award(bounty=bounty, but_not=but_not)
    if best is None or best.confirmation_run is None:
        return Lineage.objects.select_related("tip").get(pk=bounty.lineage_id).tip
    return best.confirmation_run.candidate_tree


def patch_base(*, bounty: Bounty) -> StoredTree:
    """The tree that a new diff must be made against: the tip, or the best tree while that is not merged."""
    best = best_award(bounty=bounty)
    if best is None or best.confirmation_run is None or best.submission.merged_at is not None:
        return Lineage.objects.select_related("tip").get(pk=bounty.lineage_id).tip
    return best.confirmation_run.candidate_tree
