"""Trees that a price is measured against in addition to its base: the lowest of all bounds is what an award pays.

- The best tree of the series, where it was merged and the tip is another tree since: a merge from another suite may have
  made the tip faster here, or slower. Base is then the tip, and a gain has to beat both.
- The tips that pushes to the lineage's repository replaced since the series' best gain was priced: a push is not measured,
  and a gain must not win back what one lost.
- The change of a nearly equal submission, of another person or the same one, that has its award in another series and
  is not merged: applied to the price's base, or its own tree where it does not apply.

Each is a confirmation's measurement of its own (`RunKind.COMPARISON`), ordered after the price.
"""

from dataclasses import dataclass

from django.db import transaction

from benchmarks.faults import fault_point
from bounty.errors import WrongBase
from bounty.models import (
    OPEN_RUN_STATES,
    Run,
    RunKind,
    RunState,
    RunVerdict,
    StoredTree,
    Submission,
    SubmissionState,
)
from bounty.services.runs.guard_rails import pricing_run
from bounty.services.runs.lifecycle import queue_run
from bounty.services.series.best import measured_base, merged_best
from bounty.services.series.likenesses import NearlyEqual, nearly_equal_awarded
from bounty.services.series.pushes import replaced_by_pushes
from bounty.services.series.remeasure import applied_to
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
    for other in _of_other_series(submission, priced):
        like = other.like
        why = f"submission {like.submission.pk}, of which {like.percent} % of the changed lines are the same"
        trees.setdefault(other.tree.pk, (other.tree, why))
    against = measured_base(bounty=submission.bounty, of=submission)
    return [
        Comparison(tree, why, _run_against(tree, priced))
        for tree, why in trees.values()
        if tree.pk not in (against.pk, priced.candidate_tree_id) and has_present_layout(tree.pk)
    ]


def same_tree_as(submission: Submission, priced: Run) -> str:
    """Why the candidate is no gain although it beats its base: it is itself a tree that it has to beat. Else empty."""
    same = _of_series(submission).get(priced.candidate_tree_id)
    if same is not None:
        return f"The candidate is, byte for byte, {same[1]}. Restoring it is no gain. Submit a change that makes it faster."
    others = _of_other_series(submission, priced)
    paid = next((one for one in others if one.tree.pk == priced.candidate_tree_id), None)
    if paid is None:
        return ""
    return (
        f"The candidate is, byte for byte, its base with the change of submission {paid.like.submission.pk}, which has "
        "its award in another series. A change is paid once. Submit a change that makes it faster."
    )


def _of_series(submission: Submission) -> dict[str, tuple[StoredTree, str]]:
    """Trees of the submission's own series that a gain has to beat besides its base, each with what it is."""
    trees: dict[str, tuple[StoredTree, str]] = {}
    best = merged_best(bounty=submission.bounty, of=submission)
    if best is not None:
        trees[best.pk] = best, "the best tree of the series, which was merged before the tip moved"
    for replaced in replaced_by_pushes(bounty=submission.bounty, of=submission):
        trees.setdefault(replaced.pk, (replaced, "the lineage's tip before a push, which was not measured"))
    return trees


@dataclass(frozen=True, slots=True)
class _Paid:
    """A tree with the change of a nearly equal submission."""

    tree: StoredTree
    like: NearlyEqual


def _of_other_series(submission: Submission, priced: Run) -> list[_Paid]:
    """The nearly equal ones whose gain the price's base lacks: they have their award in another series, unmerged."""
    return [
        _Paid(_with_change(like.award.confirmation_run, priced.base_tree, like.submission), like)
        for like in nearly_equal_awarded(submission)
        if like.award.confirmation_run is not None
        and like.submission.merged_at is None
        and not _is_same_series(submission, like.submission)
    ]


def _with_change(paid: Run, base: StoredTree, of: Submission) -> StoredTree:
    """The base with the change that was paid. Its own tree may lack a gain that the base has, which would pay again."""
    if paid.base_tree_id == base.pk:
        return paid.candidate_tree
    try:
        return applied_to(base, of)
    except WrongBase:
        return paid.candidate_tree


def order_comparison(*, submission: Submission, priced: Run, tree: StoredTree) -> bool:
    """Order the measurement against one more tree, once. Always False: there is nothing more to do now."""
    with transaction.atomic():
        # A second worker waits here, and then finds the run.
        locked = Submission.objects.select_for_update(no_key=True).get(pk=submission.pk)
        newest = pricing_run(locked)
        if locked.state != SubmissionState.CONFIRMING or newest is None or newest.pk != priced.pk:
            return False
        if locked.runs.filter(state__in=[RunState.QUEUED, *OPEN_RUN_STATES]).exists():
            return False  # its guard run: the other award was booked meanwhile
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
