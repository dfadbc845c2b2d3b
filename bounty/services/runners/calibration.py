"""Processing of A/A runs: a noise sample, and quarantine or release of the runner.

The rules are in `benchmarks.statistics.runner_health`. `calibration_schedule` orders A/A runs.
"""

from typing import Any

from benchmarks.catalogue import SUITES
from benchmarks.evidence.base_checks import is_of_runner
from benchmarks.judging.calibration import noise_of
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.statistics.runner_health import (
    LIMITS,
    fault_of,
    may_come_back,
    noise_floor_log_ppm,
    noise_limit_log_ppm,
)
from bounty.models import NoiseSample, QuarantineCause, Run, RunKind, Runner
from bounty.services.runners.failures import note_failure
from bounty.services.runners.quarantine import end_quarantine, quarantine

RELEASED_AUTOMATICALLY = (QuarantineCause.DRIFT, QuarantineCause.FAILURES)


def note_outcome(*, run: Run, document: dict[str, Any], verdict: Verdict) -> None:
    """Record what a finished run says about its runner. Inside the transaction that records the verdict."""
    assert run.runner is not None, "evidence comes from a runner"
    if verdict.kind is VerdictKind.INFRASTRUCTURE_ERROR:
        if not is_of_runner(document):
            return
        note_failure(run=run, reason=verdict.reason)
    elif run.kind == RunKind.AA:
        sample = _noise_sample(run, run.runner, document, verdict)
        _follow(run.runner, sample)


def _noise_sample(run: Run, runner: Runner, document: dict[str, Any], verdict: Verdict) -> NoiseSample:
    figures = noise_of(document, verdict.kind)
    limit = noise_limit(runner=runner, suite=run.suite, preset=run.preset)
    fault = fault_of(figures, limit_log_ppm=limit)
    return NoiseSample.objects.create(
        run=run,
        runner=runner,
        suite=run.suite,
        preset=run.preset,
        pairs=figures.pairs,
        noise_log_ppm=figures.noise_log_ppm,
        median_log_ppm=figures.median_log_ppm,
        slowdown_log_ppm=figures.slowdown_log_ppm,
        verdict_kind=figures.verdict.value,
        is_good=not fault,
        fault=fault,
    )


def noise_limit(*, runner: Runner, suite: str, preset: str) -> int | None:
    """Limit of this runner's noise, in millionths of a nat; None while its history is too short."""
    earlier = NoiseSample.objects.filter(
        runner=runner, suite=suite, preset=preset, is_good=True, created_at__gte=runner.history_since
    )
    newest = list(earlier.order_by("-created_at").values_list("noise_log_ppm", flat=True)[: LIMITS.history])
    floor = noise_floor_log_ppm(SUITES[suite].minimum_effect_log_ppm)
    return noise_limit_log_ppm(newest[::-1], floor_log_ppm=floor)


def _follow(runner: Runner, sample: NoiseSample) -> None:
    runner.refresh_from_db()
    what = f"A/A run {sample.run_id} of {sample.suite}/{sample.preset}"
    if not sample.is_good:
        quarantine(runner=runner, cause=QuarantineCause.DRIFT, reason=f"{what}: {sample.fault}")
    elif runner.quarantine_cause in RELEASED_AUTOMATICALLY and runner.quarantined_at is not None:
        since = NoiseSample.objects.filter(runner=runner, created_at__gt=runner.quarantined_at)
        if may_come_back(list(since.order_by("created_at").values_list("is_good", flat=True))):
            end_quarantine(runner=runner, reason=f"{LIMITS.good_in_a_row} good A/A runs in a row")
