"""Trees that a price is measured against in addition to its base: the lowest of all bounds is what an award pays.

- The best tree of the series, where it was merged and the tip is another tree since: a merge from another suite may have
  made the tip faster here, or slower. Base is then the tip, and a gain has to beat both.
- The tips that pushes to the lineage's repository replaced since the series' best gain was priced: a push is not measured,
  and a gain must not win back what one lost.
- The tree of a nearly equal submission of another person that has its award in another series and is not merged.

Each is a confirmation's measurement of its own (`RunKind.COMPARISON`), ordered after the price.
"""

from dataclasses import dataclass

from django.db import transaction

from benchmarks.faults import fault_point
from bounty.models import Run, RunKind, RunVerdict, StoredTree, Submission, SubmissionState
from bounty.services.runs.guard_rails import pricing_run
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base, merged_best
from bounty.services.series.likenesses import nearly_equal_awarded
from bounty.services.series.pushes import replaced_by_pushes
from bounty.services.trees import has_present_layout


@dataclass(frozen=True, slots=True)
class Comparison:
    """A tree to beat, why, and the run that measures against it, once it is ordered."""

    tree: StoredTree
    why: str
    run: Run | None

    @property
    def verdict(self) -> RunVerdict | None:
        return None if self.run is None else RunVerdict.objects.filter(run=self.run).first()


def comparisons(submission: Submission, priced: Run) -> list[Comparison]:
    """What a price has to be compared with now, besides its base."""
    trees = _of_series(submission)
    for other in nearly_equal_awarded(submission):
        run = other.award.confirmation_run
        if (
            run is None
            or other.submission.merged_at is not None
            or _is_same_series(submission, other.submission)
        ):
            continue  # base has it already
        why = (
            f"submission {other.submission.pk}, of which {other.percent} % of the changed lines are the same"
        )
        trees.setdefault(run.candidate_tree_id, (run.candidate_tree, why))
    against = measured_base(bounty=submission.bounty, of=submission)
    return [
        Comparison(tree, why, _run_against(tree, priced))
        for tree, why in trees.values()
        if tree.pk not in (against.pk, priced.candidate_tree_id) and has_present_layout(tree.pk)
    ]


def same_tree_as(submission: Submission, priced: Run) -> str:
    """Why the candidate is no gain although it beats its base: it is itself a tree that it has to beat. Else empty."""
    same = _of_series(submission).get(priced.candidate_tree_id)
    if same is None:
        return ""
    return f"The candidate is, byte for byte, {same[1]}. Restoring it is no gain. Submit a change that makes it faster."


def _of_series(submission: Submission) -> dict[str, tuple[StoredTree, str]]:
    """Trees of the submission's own series that a gain has to beat besides its base, each with what it is."""
    trees: dict[str, tuple[StoredTree, str]] = {}
    best = merged_best(bounty=submission.bounty, of=submission)
    if best is not None:
        trees[best.pk] = best, "the best tree of the series, which was merged before the tip moved"
    for replaced in replaced_by_pushes(bounty=submission.bounty, of=submission):
        trees.setdefault(replaced.pk, (replaced, "the lineage's tip before a push, which was not measured"))
    return trees


def order_comparison(*, submission: Submission, priced: Run, tree: StoredTree) -> bool:
    """Order the measurement against one more tree, once. Always False: there is nothing more to do now."""
    with transaction.atomic():
        # A second worker waits here, and then finds the run.
        locked = Submission.objects.select_for_update(no_key=True).get(pk=submission.pk)
        newest = pricing_run(locked)
        if locked.state != SubmissionState.CONFIRMING or newest is None or newest.pk != priced.pk:
            return False
        if _run_against(tree, priced) is None:
            queue_run(submission=submission, kind=RunKind.COMPARISON, base=tree)
    fault_point("control.comparison_ordered")
    return False


def _run_against(tree: StoredTree, priced: Run) -> Run | None:
    return (
        Run.objects.filter(
            submission=priced.submission_id,
            kind=RunKind.COMPARISON,
            base_tree=tree,
            candidate_tree=priced.candidate_tree_id,
            queued_at__gt=priced.queued_at,
        )
        .order_by("-queued_at")
        .first()
    )


def _is_same_series(one: Submission, other: Submission) -> bool:
    series = [(row.bounty.lineage_id, row.bounty.suite, row.bounty.hardware) for row in (one, other)]
    return series[0] == series[1]
