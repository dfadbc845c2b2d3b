"""The figures behind a verdict, as a Markdown table. Only for submissions that are decided: they are public then."""

from dataclasses import dataclass

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.median import standard_deviation
from benchmarks.statistics.units import floor_ppm, nats, signed_percent
from bounty.github.reports.escaping import code
from bounty.models import Run, RunVerdict, Submission
from bounty.services.leaderboards import leaderboard

MOST_PLACES = 100  # of a leaderboard


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what it is, and its value in Markdown."""

    name: str
    value: str


def figures_of(run: Run) -> list[Figure]:
    """Estimate, bound, pairs, noise, runner, sandbox and evidence of a finished run."""
    verdict = RunVerdict.objects.select_related("evidence", "run__runner").get(run=run)
    rows = []
    if verdict.log_ppm_estimate is not None:
        rows.append(Figure("Estimate", signed_percent(verdict.log_ppm_estimate)))
    if verdict.log_ppm_bound is not None:
        name = f"{verdict.bound_side.capitalize()} bound, one-sided"
        rows.append(Figure(name, signed_percent(verdict.log_ppm_bound)))
    rows.append(Figure("Pairs", str(verdict.pairs)))
    if noise := noise_text(verdict):
        rows.append(Figure("Noise", noise))
    if verdict.run.runner is not None:
        runner = verdict.run.runner
        rows.append(Figure("Runner", f"{code(runner.name)} ({code(verdict.run.hardware)})"))
    if verdict.evidence is not None:
        earns = "" if verdict.evidence.is_award_eligible else ", which earns no award"
        rows.append(Figure("Sandbox", f"{code(verdict.evidence.sandbox_level)}{earns}"))
    return rows


def noise_text(verdict: RunVerdict) -> str:
    """How much single pairs scatter, as a standard deviation; empty where too few were measured."""
    samples = [] if verdict.evidence is None else verdict.evidence.samples
    by_case: dict[str, list[float]] = {}
    for sample in samples:
        if not sample["control"]:
            by_case.setdefault(str(sample["case"]), []).append(nats(int(sample["log_ratio_ppb"])))
    spreads = [standard_deviation(values) for values in by_case.values() if len(values) > 1]
    if not spreads:
        return ""
    return f"single pairs scatter by {floor_ppm(max(spreads)) / 10_000:.2f} % (standard deviation)"


def rank_text(submission: Submission) -> str:
    """The rank of a booked gain in its series; empty without one."""
    places = leaderboard(bounty=submission.bounty)
    place = next((one for one in places if one.submission == submission.pk), None)
    if place is None:
        return ""
    shared = sum(one.rank == place.rank for one in places) > 1
    of = f"{len(places)}" if len(places) < MOST_PLACES else f"more than {MOST_PLACES - 1}"
    return f"{place.rank} of {of} gains of this series" + (", shared" if shared else "")


def table(rows: list[Figure]) -> str:
    """A Markdown table of figures; empty without rows."""
    if not rows:
        return ""
    head = "| | |\n| --- | --- |\n"
    return head + "\n".join(f"| {row.name} | {row.value.replace('|', '&#124;')} |" for row in rows)


NEXT_STEPS = {
    VerdictKind.GAIN: "A maintainer reviews the patch; the award vests when it is accepted and merged as measured.",
    VerdictKind.NO_GAIN: "Look at the pairs on the submission's page, make the gain larger, and push a new head with `/judge`.",
    VerdictKind.REGRESSION: "Look at the pairs on the submission's page, mend what became slower, and push a new head with `/judge`.",
    VerdictKind.WRONG_OUTPUT: "Compare the outputs as the reason says, mend the difference, and push a new head with `/judge`.",
    VerdictKind.QUALITY_LOSS: "Bring the held-out loss back within its limit, and push a new head with `/judge`.",
    VerdictKind.BUILD_FAILED: "Read the log on the submission's page, mend the build or the import, and push a new head with `/judge`.",
    VerdictKind.PATCH_REJECTED: "Change the diff as the reason says, and push a new head with `/judge`. Nothing was run.",
    VerdictKind.TIMEOUT: "Make sure that each call answers in time, and push a new head with `/judge`.",
    VerdictKind.RESOURCE_LIMIT: "Stay within the limits that the reason names, and push a new head with `/judge`.",
    VerdictKind.POLICY_VIOLATION: "Remove what the policy forbids, and push a new head with `/judge`.",
}
NOT_PROVED = {
    True: "It does not prove a gain on other hardware, other shapes than the suite's family, or in other suites; there "
    "it is only not worse by more than the guard rails' margins. Nor does it prove that the code is safe to merge: "
    "that is what a review is for.",
    False: "It does not prove that the idea is wrong: another form of it, another suite or other hardware may show a gain.",
}
