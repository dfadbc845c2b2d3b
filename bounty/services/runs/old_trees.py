"""Old trees of confirmations: the tree that base's own award was priced against, which is timed as well.

The judge finds base slow or not (`benchmarks.statistics.old`). A slow base is written down here and stops the lineage's merges
until a maintainer decides (`bounty.services.series.slow_bases`).
"""

from typing import Any

from benchmarks.evidence.confirmation import finds_slow_base
from benchmarks.judging.verdicts import Verdict, VerdictKind
from bounty.models import Award, Run, SlowBase, SlowBaseState, StoredTree, Submission
from bounty.services.series.best import best_award
from bounty.services.transitions import note
from bounty.services.trees import has_present_layout


def old_award_of(*, submission: Submission, base: StoredTree) -> Award | None:
    """The award that was paid for ``base``, whose old tree a confirmation times as well; None where there is none.

    None also where a maintainer has decided that this base kept its gain, or where the old tree has an older layout.
    """
    award = best_award(bounty=submission.bounty, of=submission)
    if award is None or award.confirmation_run is None or not award.log_ppm_bound:
        return None
    if award.confirmation_run.candidate_tree_id != base.pk or award.confirmation_run.base_tree_id == base.pk:
        return None
    if not has_present_layout(award.confirmation_run.base_tree_id):
        return None
    return None if award.slow_bases.filter(state=SlowBaseState.KEPT).exists() else award


def note_slow_base(*, run: Run, document: dict[str, Any], verdict: Verdict) -> None:
    """Write down that a run's evidence shows a slow base. Inside the transaction that records the evidence."""
    if run.old_award is None or verdict.kind != VerdictKind.SUSPICIOUS:
        return
    if not finds_slow_base(document):
        return
    row = SlowBase.objects.create(run=run, award=run.old_award)
    note(row, old="", new=row.state, reason=f"run {run.pk} found its base slow; merges of the lineage wait")


def stops_merges(*, lineage_id: int) -> bool:
    """Whether a base of the lineage waits for a maintainer's decision."""
    return SlowBase.objects.filter(
        state=SlowBaseState.OPEN, award__submission__bounty__lineage=lineage_id
    ).exists()
