"""Views of a submission's finished runs: plots, rails, attempts, evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.safestring import SafeString

from benchmarks.catalogue import suite_of_case
from benchmarks.judging.verdicts import VerdictKind
from bounty.models import Evidence, Run, RunKind, RunVerdict, Submission
from bounty.pages.bugs import AttemptRow, trials_of
from bounty.pages.counting import counted_by
from bounty.pages.pair_plot import PairPoint, median_log_ppm, plot_pairs
from bounty.services.runs.guard_rails import RailResult, RailRow, rails_of

SUITE_HEIGHT = 170  # of a plot among several
RAIL_WORDS = {
    RailResult.HOLDS: ("holds", "good"),
    RailResult.VIOLATED: ("does not hold", "bad"),
    RailResult.UNDECIDED: ("not decided", "plain"),
    RailResult.NOT_NEEDED: ("not needed", "plain"),
}


@dataclass(frozen=True, slots=True)
class RunPlot:
    """Plot of a run's pairs. ``suite`` is empty if all pairs are of the run's own suite."""

    suite: str
    svg: SafeString
    estimate_log_ppm: int | None
    bound_log_ppm: int | None = None
    bound_side: str = ""


@dataclass(frozen=True, slots=True)
class RailView:
    """A rail with its result in words and its badge's tone."""

    rail: RailRow
    words: str
    tone: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A run on its submission's page. ``is_the_verdict``: the submission's verdict comes from this run."""

    run: Run
    is_the_verdict: bool
    words: str
    tone_of: str
    verdict: RunVerdict | None
    evidence: Evidence | None
    plots: list[RunPlot] = field(default_factory=list)
    rails: list[RailView] = field(default_factory=list)
    trials: list[AttemptRow] = field(default_factory=list)
    counted_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def rails_held(self) -> str:
        """`13 of 13`: number of rails that hold, of those that were needed; empty without any."""
        needed = [view for view in self.rails if view.rail.result != RailResult.NOT_NEEDED]
        held = sum(view.rail.result == RailResult.HOLDS for view in needed)
        return f"{held} of {len(needed)}" if needed else ""


def run_views(submission: Submission) -> list[RunView]:
    """The submission's finished runs, the newest first."""
    runs = submission.runs.filter(verdict__isnull=False).select_related("verdict__evidence", "runner")
    return [run_view(run, submission) for run in runs.order_by("-queued_at")]


def run_view(run: Run, submission: Submission) -> RunView:
    """A finished run with its figures."""
    verdict, evidence = run.verdict, run.verdict.evidence
    return RunView(
        run=run,
        is_the_verdict=run.pk == submission.verdict_run_id,
        words=verdict_words(run.kind, verdict.kind),
        tone_of=verdict.kind,
        verdict=verdict,
        evidence=evidence,
        plots=[] if evidence is None else plots_of(run, verdict, evidence.samples),
        rails=[]
        if evidence is None
        else [RailView(rail, *RAIL_WORDS[rail.result]) for rail in rails_of(evidence)],
        trials=trials_of(run),
        counted_by={} if evidence is None else counted_by(evidence),
    )


def verdict_words(run_kind: str, verdict: str) -> str:
    """Text of a run's badge. A guard run's badge says whether its rails hold."""
    if run_kind == RunKind.GUARD and verdict == VerdictKind.GAIN:
        return "guard rails hold"
    if run_kind == RunKind.GUARD and verdict in (VerdictKind.REGRESSION, VerdictKind.QUALITY_LOSS):
        return "a guard rail does not hold"
    if run_kind == RunKind.FIX and verdict == VerdictKind.GAIN:
        return "fixes the bug"
    return verdict.replace("_", " ")


def plots_of(run: Run, verdict: RunVerdict, samples: Sequence[dict[str, Any]]) -> list[RunPlot]:
    """Plots of the run's pairs: one, or one per suite for a guard run."""
    if run.kind == RunKind.FIX:
        return []
    if run.kind != RunKind.GUARD:
        svg = plot_pairs(
            points_of(samples),
            estimate_log_ppm=verdict.log_ppm_estimate,
            bound_log_ppm=verdict.log_ppm_bound,
            bound_side=verdict.bound_side,
            title=run.get_kind_display(),
        )
        bound = (verdict.log_ppm_bound, verdict.bound_side)
        return [RunPlot("", svg, verdict.log_ppm_estimate, *bound)] if svg else []
    by_suite: dict[str, list[dict[str, Any]]] = {}
    for row in samples:
        by_suite.setdefault(suite_of_case(str(row["case"])), []).append(row)
    return [_suite_plot(suite, points_of(rows)) for suite, rows in sorted(by_suite.items())]


def _suite_plot(suite: str, points: list[PairPoint]) -> RunPlot:
    svg = plot_pairs(points, title=suite.replace("_", " ").capitalize(), height=SUITE_HEIGHT)
    return RunPlot(suite, svg, median_log_ppm(points))


def points_of(samples: Sequence[dict[str, Any]]) -> list[PairPoint]:
    """Points of the plot from the evidence's samples."""
    return [
        PairPoint(int(row["index"]), int(row["log_ratio_ppb"]) / 1e9, bool(row["control"])) for row in samples
    ]
