"""Diagnostics of the machine from the samples: noise floor, drift, outliers, order effects. In numbers and in words.

For people and for runner health only: nothing here decides a verdict. Values are integers in millionths of a nat,
rounded down, so that they can be in evidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from benchmarks.statistics.gate import MEDIAN_EFFICIENCY
from benchmarks.statistics.median import median, standard_deviation
from benchmarks.statistics.serial import LEAST_VALUES, serial_correlation
from benchmarks.statistics.units import PPM, floor_ppm, signed_percent

OUTLIER_DEVIATIONS = 5.0
NOTABLE_ERRORS = 3.0  # what is mentioned is so many standard errors from zero
LEAST_NOTABLE_LOG = 0.005  # effects smaller than this are no one's business
_MAD_TO_SD = 1.4826  # for normal noise: Rousseeuw & Croux, JASA 88 (1993)


@dataclass(frozen=True, slots=True)
class PairOrder:
    """Order of a pair: if base's process was started first, and by how much its first turn differed from the rest.

    `first_turn_log` is the first turn's log ratio less the median of the later turns', in nats; None with one turn.
    """

    base_first: bool
    first_turn_log: float | None = None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Noise figures in millionths of a nat. `noise` is the standard deviation of the pairs, `control_noise` that of control pairs.

    `control_offset` is the control pairs' median (base against itself: zero but for noise); `drift` the change over the
    whole run along the Theil-Sen line; `outliers` the positions of pairs beyond 5 robust standard deviations;
    `correlation` the rank correlation of neighbours in millionths; `spawn_effect` the median where base was started
    first less the median where it was not; `first_turn_effect` the median of what first turns differed. None: unknown.
    """

    pairs: int
    controls: int
    noise: int
    control_noise: int | None
    control_offset: int | None
    drift: int
    outliers: tuple[int, ...]
    correlation: int
    spawn_effect: int | None
    first_turn_effect: int | None
    words: tuple[str, ...]


def diagnose(
    log_ratios: Sequence[float],
    control_log_ratios: Sequence[float] = (),
    orders: Sequence[PairOrder] = (),
) -> Diagnostics:
    """Describe a run's pairs and control pairs, ln(base / candidate) in nats, in the order measured.

    `orders` tells how each of the pairs was run, or is empty. Raises ValueError where it has another length.
    """
    if orders and len(orders) != len(log_ratios):
        raise ValueError(f"{len(orders)} orders for {len(log_ratios)} pairs")
    drift = theil_sen_slope(log_ratios) * max(0, len(log_ratios) - 1)
    outliers = outlier_positions(log_ratios)
    correlation = serial_correlation(log_ratios)
    spawn = _spawn_effect(log_ratios, orders)
    first = [order.first_turn_log for order in orders if order.first_turn_log is not None]
    return Diagnostics(
        pairs=len(log_ratios),
        controls=len(control_log_ratios),
        noise=floor_ppm(standard_deviation(log_ratios)),
        control_noise=floor_ppm(standard_deviation(control_log_ratios))
        if len(control_log_ratios) > 1
        else None,
        control_offset=floor_ppm(median(control_log_ratios)) if control_log_ratios else None,
        drift=floor_ppm(drift),
        outliers=outliers,
        correlation=math.floor(correlation * PPM),
        spawn_effect=None if spawn is None else floor_ppm(spawn[0]),
        first_turn_effect=floor_ppm(median(first)) if first else None,
        words=tuple(_words(log_ratios, drift, outliers, correlation, spawn, first)),
    )


def theil_sen_slope(values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of values, per step: Sen, JASA 63 (1968). 0.0 below two values.

    One wild value in four moves it little. Each slope is correctly rounded, so every machine gets the same.
    """
    slopes = [
        (later - earlier) / (second - first)
        for first, earlier in enumerate(values)
        for second, later in enumerate(values[first + 1 :], first + 1)
    ]
    return median(slopes) if slopes else 0.0


def has_trend(values: Sequence[float], errors: float = NOTABLE_ERRORS) -> bool:
    """True if rises among all pairs of values outnumber falls by more than chance: Mann, Econometrica 13 (1945)."""
    count = len(values)
    if count < LEAST_VALUES:
        return False
    score = sum(
        (later > earlier) - (later < earlier)
        for first, earlier in enumerate(values)
        for later in values[first + 1 :]
    )
    return abs(score) > errors * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)


def outlier_positions(values: Sequence[float]) -> tuple[int, ...]:
    """Positions of values beyond 5 robust standard deviations (median absolute deviation) of the median."""
    if not values:
        return ()
    middle = median(values)
    spread = _MAD_TO_SD * median([abs(value - middle) for value in values])
    if not spread:
        return ()
    limit = OUTLIER_DEVIATIONS * spread
    return tuple(place for place, value in enumerate(values) if abs(value - middle) > limit)


def _spawn_effect(values: Sequence[float], orders: Sequence[PairOrder]) -> tuple[float, float] | None:
    """The effect of starting base first, and its standard error; None where one order hardly occurred."""
    first = [value for value, order in zip(values, orders, strict=False) if order.base_first]
    second = [value for value, order in zip(values, orders, strict=False) if not order.base_first]
    if min(len(first), len(second)) < 3:
        return None
    within = [value - median(group) for group in (first, second) for value in group]
    error = MEDIAN_EFFICIENCY * standard_deviation(within) * math.sqrt(1 / len(first) + 1 / len(second))
    return median(first) - median(second), error


def _words(
    values: Sequence[float],
    drift: float,
    outliers: Sequence[int],
    correlation: Fraction,
    spawn: tuple[float, float] | None,
    first: Sequence[float],
) -> list[str]:
    """One sentence for each notable thing; none for a quiet run."""
    words = []
    if abs(drift) >= LEAST_NOTABLE_LOG and has_trend(values):
        words.append(f"The pairs drift: {_signed(drift)} from the first to the last.")
    if outliers:
        which = ", ".join(str(place + 1) for place in outliers[:5]) + (" ..." if len(outliers) > 5 else "")
        words.append(
            f"{len(outliers)} of {len(values)} pairs are far from the others (number {which}): something "
            "disturbed them. The median is hardly affected."
        )
    if correlation > NOTABLE_ERRORS / math.sqrt(max(1, len(values))):
        words.append(
            f"Neighbouring pairs are similar (rank correlation {float(correlation):.2f}): the noise lasts "
            "longer than a pair, so bounds are more conservative."
        )
    if spawn is not None and abs(spawn[0]) >= max(LEAST_NOTABLE_LOG, NOTABLE_ERRORS * spawn[1]):
        words.append(
            f"Order of starting matters: the candidate looks {_signed(spawn[0])} faster where base was started first. "
            "The order is drawn at random, so it cancels."
        )
    if len(first) >= LEAST_VALUES:
        middle = median(first)
        error = MEDIAN_EFFICIENCY * standard_deviation(first) / math.sqrt(len(first))
        if abs(middle) >= max(LEAST_NOTABLE_LOG, NOTABLE_ERRORS * error):
            words.append(
                f"First turns differ from later ones by {_signed(middle)}: one side is slower to warm up."
            )
    return words


def _signed(nats: float) -> str:
    return signed_percent(floor_ppm(nats))
