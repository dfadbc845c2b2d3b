"""The sum of what the gains of a lineage cost elsewhere: each stays within a rail's margin, and so must all together.

Ten gains that each lose a little less than is allowed would lose ten times that. So each rail has a budget for the whole
lineage, `MARGINS` times its margin: gains booked before count with their estimate, the new one with its bound
(`benchmarks.statistics.lineage`). A gain in a rail gives back what was lost there before it, and never more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.statistics.lineage import LineageLoss, lineage_loss
from benchmarks.statistics.units import signed_percent
from bounty.models import Award, AwardRole, Evidence, Run, Submission
from bounty.services.runs.guard_rails import RailResult, RailRow, rails_of
from bounty.services.series.best import STANDING
from bounty.services.trees import has_present_layout

MARGINS = 3  # a single gain may lose one margin; estimates of gains without any loss add up too, by chance


@dataclass(frozen=True, slots=True)
class Overspent:
    """A rail whose budget a gain would exceed."""

    rail: str
    loss: LineageLoss

    @property
    def reason(self) -> str:
        """What happened and what to do, for the verdict."""
        spent, after, budget = (
            signed_percent(-value)
            for value in (self.loss.spent_ppm, self.loss.with_new_ppm, self.loss.budget_ppm)
        )
        return (
            f"The losses of this lineage add up: for {self.rail} the gains before this one come to {spent}, with this "
            f"one it could be {after}, and {budget} is the most that all may lose together. Keep the gain without that "
            "cost, or make that suite faster first, then submit again."
        )


def overspent(*, submission: Submission, guard: Run) -> Overspent | None:
    """The first rail whose budget the lineage would exceed with this gain; None where all have room."""
    earlier = [rails_of(evidence) for evidence in _guards_before(submission)]
    for row in rails_of(guard.evidence):
        loss = _loss(row, earlier)
        if loss is not None and loss.is_exceeded:
            return Overspent(row.name, loss)
    return None


def _guards_before(submission: Submission) -> list[Evidence]:
    """Evidence of the guard runs of the lineage's booked gains, oldest first, since its trees have the present layout."""
    booked = Award.objects.filter(
        role=AwardRole.GAIN,
        state__in=STANDING,
        submission__bounty__lineage=submission.bounty.lineage_id,
        confirmation_run__guard__evidence__isnull=False,
    ).exclude(submission=submission)
    rows = booked.select_related("submission", "confirmation_run__guard__evidence__run").order_by("series_at")
    return [
        award.confirmation_run.guard.evidence
        for award in rows
        if award.confirmation_run is not None and has_present_layout(award.submission.base_tree_id)
    ]


def _loss(row: RailRow, earlier: Iterable[tuple[RailRow, ...]]) -> LineageLoss | None:
    """The rail's losses with this gain at its bound; None where this gain cannot have changed it."""
    if row.result == RailResult.NOT_NEEDED or row.log_ppm_bound is None:
        return None
    before = [
        -other.log_ppm_estimate
        for rails in earlier
        for other in rails
        if other.name == row.name
        and other.log_ppm_estimate is not None
        and other.result != RailResult.NOT_NEEDED
    ]
    return lineage_loss(before, -row.log_ppm_bound, MARGINS * -row.margin_log_ppm)
