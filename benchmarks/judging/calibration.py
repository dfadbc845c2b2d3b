"""Figures about a runner's health from the evidence of an A/A run. Decides nothing itself."""

from typing import Any

from benchmarks.evidence.partner import partner
from benchmarks.evidence.samples import PPB_PER_PPM, read_samples
from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.diagnostics import diagnose
from benchmarks.statistics.median import median
from benchmarks.statistics.runner_health import NoiseFigures
from benchmarks.statistics.units import floor_ppm, nats


def noise_of(document: dict[str, Any], verdict: VerdictKind) -> NoiseFigures:
    """Read a runner's noise from a validated document of kind `aa`. `verdict` is the recomputed one."""
    samples = read_samples(document)
    ratios = [nats(value) for values in samples.by_case.values() for value in values]
    control = partner(samples).slowdown
    return NoiseFigures(
        verdict=verdict,
        pairs=len(ratios),
        noise_log_ppm=diagnose(ratios).noise,
        median_log_ppm=floor_ppm(median(ratios)) if ratios else 0,
        slowdown_log_ppm=control.estimate_ppb // PPB_PER_PPM if control.comparisons else None,
        slowdown_limit_log_ppm=None
        if control.threshold_ppb is None
        else control.threshold_ppb // PPB_PER_PPM,
        comparisons=control.comparisons,
    )
