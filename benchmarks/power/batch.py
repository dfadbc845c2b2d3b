"""The gate, the confirmation and the guard rails on many simulated runs at once. For simulation only.

Same rules as `benchmarks.statistics`, in numpy, and no verdict ever comes from here; a test holds both to the same
answers. Arrays are [runs, pairs] of log ratios in nats, in the order measured.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.confirm import CORRELATION_STEPS, ERROR, bound_rank
from benchmarks.statistics.gate import (
    CLEAR_DEVIATIONS,
    CLEAR_EFFECT_LOG,
    EFFECT_ERRORS,
    EXTENSION_ERRORS,
    FUTILE,
    LOOKS,
    MEDIAN_EFFICIENCY,
    GatePlan,
    boundaries,
)
from benchmarks.statistics.guard import GuardPlan
from benchmarks.statistics.median import Z_95

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

NO_GAIN, GAIN, REGRESSION = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Gated:
    """Per run: what the gate said, at which look, and its estimate."""

    outcome: Counts
    look: Counts
    estimate: Values

    @property
    def passed(self) -> Flags:
        passed: Flags = self.outcome == GAIN
        return passed


def gate(values: Values, plan: GatePlan, *, is_continued: bool = False) -> Gated:
    """The gate on each row, which holds as many pairs as the plan may take.

    With `is_continued` runs that end for futility are submitted again, until the last look: what pooled attempts come to.
    """
    runs = len(values)
    outcome = np.full(runs, NO_GAIN)
    taken = np.full(runs, plan.most_pairs)
    estimate = np.zeros(runs)
    alive = np.arange(runs)
    for look in plan.all_looks():
        rows = values[alive, :look] if len(alive) < runs else values[:, :look]
        ordered = np.sort(rows, axis=1)
        middle = (ordered[:, (look - 1) // 2] + ordered[:, look // 2]) / 2
        minimum, extends = _minimum_effect(ordered, plan)
        floor = np.maximum(minimum, CLEAR_EFFECT_LOG) if look == LOOKS[0] else minimum
        gains = _is_above(ordered, middle, plan) & (middle >= floor)
        losses = _is_above(-ordered[:, ::-1], -middle, plan) & (-middle >= floor) & ~gains
        is_last = np.full(len(alive), look == plan.most_pairs)
        if look >= plan.looks[-1]:
            is_last |= ~extends
        ends = (
            gains
            | losses
            | (
                np.full(len(alive), look == plan.most_pairs)
                if is_continued
                else is_last | _is_futile(middle, look, plan)
            )
        )
        done = alive[ends]
        outcome[done] = np.where(gains, GAIN, np.where(losses, REGRESSION, NO_GAIN))[ends]
        taken[done], estimate[done] = look, middle[ends]
        alive = alive[~ends]
        if not len(alive):
            break
    return Gated(outcome, taken, estimate)


def _is_above(ordered: Values, middle: Values, plan: GatePlan) -> Flags:
    look = ordered.shape[1]
    if look == LOOKS[0]:
        clear = middle - CLEAR_DEVIATIONS * ordered.std(axis=1, ddof=1) - plan.allowance_log > 0
        first: Flags = (ordered[:, 0] > 0) & clear
        return first
    needed = boundaries(plan.alpha)[look]
    if needed > look:
        return np.zeros(len(ordered), dtype=np.bool_)
    later: Flags = ordered[:, look - needed] - plan.allowance_log > 0
    return later


def _minimum_effect(ordered: Values, plan: GatePlan) -> tuple[Values, Flags]:
    look, last = ordered.shape[1], plan.looks[-1]
    below = max(1, round((look + 1) / 2 - Z_95 * math.sqrt(look / 4)))
    error = (ordered[:, look - below] - ordered[:, below - 1]) / (2 * Z_95)
    at_last = error * math.sqrt(look / last)
    by_deviation = MEDIAN_EFFICIENCY * ordered.std(axis=1, ddof=1) / math.sqrt(last)
    extends = (
        EXTENSION_ERRORS * np.maximum(at_last, by_deviation) > plan.minimum_effect_log
    ) & plan.may_extend
    at_last = np.where(extends, at_last * math.sqrt(last / plan.most_pairs), at_last)
    return np.maximum(plan.minimum_effect_log, EFFECT_ERRORS * at_last), extends


def _is_futile(middle: Values, look: int, plan: GatePlan) -> Flags:
    if look == plan.most_pairs:
        return np.zeros(len(middle), dtype=np.bool_)
    hopeless = middle < FUTILE[look] * plan.minimum_effect_log
    if look < LOOKS[2]:
        hopeless &= middle > -plan.minimum_effect_log
    futile: Flags = hopeless
    return futile


def confirm(values: Values, error: Fraction = ERROR) -> Values:
    """The confirmation's bound for each row, in nats, at this error."""
    count = values.shape[1]
    ranks = values.argsort(axis=1).argsort(axis=1)
    spread = sum((2 * rank - count + 1) ** 2 for rank in range(count))  # of twice the ranks
    steps = 4 * (np.diff(ranks, axis=1) ** 2).sum(axis=1)
    above = sum(
        ((2 * spread - steps) * step.denominator > 2 * spread * step.numerator).astype(np.int64)
        for step in CORRELATION_STEPS
    )
    by_steps = np.array([bound_rank(count, reach, error) for reach in (Fraction(0), *_just_above())])
    ordered = np.sort(values, axis=1)
    bounds: Values = ordered[np.arange(len(values)), by_steps[above] - 1]
    return bounds


def _just_above() -> tuple[Fraction, ...]:
    return tuple(step + Fraction(1, 1_000_000) for step in CORRELATION_STEPS)


@dataclass(frozen=True, slots=True)
class Guarded:
    """Per run: whether the rail holds, and after how many pairs that was known."""

    holds: Flags
    look: Counts


def guard(values: Values, plan: GuardPlan) -> Guarded:
    """The guard rail on each row."""
    holds = np.zeros(len(values), dtype=np.bool_)
    taken = np.full(len(values), plan.most_pairs)
    is_open = np.ones(len(values), dtype=np.bool_)
    for look in plan.looks:
        needed = plan.boundaries[look]
        above = (values[:, :look] > -plan.margin_log).sum(axis=1)
        below = (values[:, :look] < -plan.margin_log).sum(axis=1)
        ends = is_open & ((above >= needed) | (below >= needed))
        holds[ends] = (above >= needed)[ends]
        taken[ends] = look
        is_open &= ~ends
    return Guarded(holds, taken)
