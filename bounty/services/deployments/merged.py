"""The merged submissions that lead from one tree of a lineage to another."""

from __future__ import annotations

from bounty.models import Award, AwardRole, AwardState, Lineage, Submission
from bounty.services.awards.lifecycle import acceptances

MOST_MERGES = 1_000
DEPLOY_ACCEPTANCES = 2  # of each merged diff that a lineage's setting deploys


def merged_between(lineage: Lineage, *, tip: str, until: str) -> list[Submission] | None:
    """The submissions whose merges led from the tree ``until`` to ``tip``, the oldest first.

    None if there is another change between them, such as a push to the lineage's repository that no one measured.
    """
    merged = _merged_trees(lineage)
    found: list[Submission] = []
    tree = tip
    while tree != until and len(found) < MOST_MERGES:
        submission = merged.get(tree)
        if submission is None:
            return None
        found.append(submission)
        tree = submission.base_tree_id
    return found[::-1] if tree == until else None


def lacks_acceptances(submissions: list[Submission]) -> Submission | None:
    """The first one that fewer than DEPLOY_ACCEPTANCES people have accepted as it was merged; None if there is none."""
    return next((one for one in submissions if acceptances(one)[0] < DEPLOY_ACCEPTANCES), None)


def _merged_trees(lineage: Lineage) -> dict[str, Submission]:
    """Merged submissions of the lineage by the tree that their merge made: the one that was confirmed."""
    awards = Award.objects.exclude(state=AwardState.VOID).filter(
        role__in=[AwardRole.GAIN, AwardRole.FIX],
        submission__bounty__lineage=lineage,
        submission__merged_at__isnull=False,
        confirmation_run__isnull=False,
    )
    rows = awards.select_related("submission__bounty", "confirmation_run").order_by("created_at")
    return {
        row.confirmation_run.candidate_tree_id: row.submission
        for row in rows
        if row.confirmation_run is not None and row.confirmation_run.candidate_tree_id is not None
    }
