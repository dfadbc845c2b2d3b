"""What the samples say about the machine: noise floor, drift, outliers. For people and for runner health only.

Nothing here decides a verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.statistics.median import median, standard_deviation
from benchmarks.statistics.units import floor_ppm

OUTLIER_DEVIATIONS = 5.0
_MAD_TO_SD = 1.4826  # for normal noise: Rousseeuw & Croux, JASA 88 (1993)


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """In millionths of a nat. `noise` is the standard deviation of the pairs, `control_noise` that of control pairs.

    `control_offset` is the control pairs' median (base against itself: zero but for noise), `drift` the median of the
    second half less that of the first, `outliers` the number of pairs beyond 5 robust standard deviations.
    """

    pairs: int
    controls: int
    noise: int
    control_noise: int | None
    control_offset: int | None
    drift: int
    outliers: int


def diagnose(log_ratios: Sequence[float], control_log_ratios: Sequence[float] = ()) -> Diagnostics:
    """Describe a run's pairs and control pairs, ln(base / candidate) in nats, in the order measured."""
    half = len(log_ratios) // 2
    return Diagnostics(
        pairs=len(log_ratios),
        controls=len(control_log_ratios),
        noise=floor_ppm(standard_deviation(log_ratios)),
        control_noise=floor_ppm(standard_deviation(control_log_ratios))
        if len(control_log_ratios) > 1
        else None,
        control_offset=floor_ppm(median(control_log_ratios)) if control_log_ratios else None,
        drift=floor_ppm(median(log_ratios[half:]) - median(log_ratios[:half])) if half else 0,
        outliers=_outliers(log_ratios),
    )


def _outliers(values: Sequence[float]) -> int:
    if not values:
        return 0
    middle = median(values)
    spread = _MAD_TO_SD * median([abs(value - middle) for value in values])
    return sum(abs(value - middle) > OUTLIER_DEVIATIONS * spread for value in values) if spread else 0
