"""Figures about a runner's health from the evidence of an A/A run. Decides nothing itself."""

import math
from typing import Any

from benchmarks.evidence.samples import read_samples
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.controls import control_check
from benchmarks.statistics.diagnostics import diagnose
from benchmarks.statistics.median import median
from benchmarks.statistics.runner_health import NoiseFigures
from benchmarks.statistics.units import floor_ppm, nats


def noise_of(document: dict[str, Any], verdict: VerdictKind) -> NoiseFigures:
    """Read a runner's noise from a validated document of kind `aa`. `verdict` is the recomputed one."""
    samples = read_samples(document)
    ratios = [nats(value) for values in samples.by_case.values() for value in values]
    control = control_check(samples.base_times)
    is_known = control.comparisons > 0 and not math.isinf(control.threshold_log)
    return NoiseFigures(
        verdict=verdict,
        pairs=len(ratios),
        noise_log_ppm=diagnose(ratios).noise,
        median_log_ppm=floor_ppm(median(ratios)) if ratios else 0,
        slowdown_log_ppm=floor_ppm(control.slowdown_log) if is_known else None,
        slowdown_limit_log_ppm=floor_ppm(control.threshold_log) if is_known else None,
        comparisons=control.comparisons,
    )
