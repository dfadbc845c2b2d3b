"""One gain handed in again and again in other forms, each a candidate of its own: what the next bound rule leaves of it.

The rule is `benchmarks.statistics.earlier`, here for many people at once. Values are in nats; attempts of one person have
the same true gain and are drawn independently of each other.
"""

import numpy as np

from benchmarks.power.batch import Values
from benchmarks.power.cells import Submissions
from benchmarks.power.pay import Pay

ENDED = 0.0  # the lowest bound where an earlier confirmation ended without one: nothing is above it
GRID = 40


def later_bound(usual: Values, strict: Values, lowest: Values | float) -> Values:
    """What counts after earlier confirmations: as `bound_after`, `lowest` being `ENDED` where one had no bound."""
    bound: Values = np.maximum(strict, np.minimum(usual, lowest))
    return bound


def later_pay(taken: Submissions, lowest: Values | float) -> Values:
    """What each submission is paid after earlier confirmations; nothing where its gate does not pass."""
    paid = np.minimum(np.maximum(later_bound(taken.bound, taken.strict, lowest), 0.0), taken.reserve)
    kept: Values = np.where(taken.passed, paid, 0.0)
    return kept


def persistent(taken: Submissions, attempts: int, *, has_rule: bool = True) -> Pay:
    """They go on until something is paid, and never end a run themselves. A confirmation without a gain counts."""
    later = later_pay(taken, ENDED) if has_rule else taken.paid
    value, after = np.zeros_like(later), 0.0
    for _ in range(attempts):
        unconfirmed = np.where(taken.passed, after, value.mean())
        value = np.where(taken.paid > 0, taken.paid, unconfirmed)
        after = float(np.where(later > 0, later, after).mean())
    return Pay.of(value)


def self_ended(taken: Submissions, attempts: int) -> Pay:
    """The best that they can do who know each bound before it counts, and may end each run, or fail a guard rail instead.

    A run that fails a rail keeps the bound as a cap for later ones. By backward induction over the attempts left and the
    lowest bound so far.
    """
    bounds = taken.bound[taken.passed]
    grid = np.concatenate(
        [[ENDED], np.quantile(np.maximum(bounds, 0.0), np.linspace(0, 1, GRID)) if len(bounds) else []]
    )
    after = np.zeros_like(grid)  # worth of the attempts left, by the lowest bound so far
    value = np.zeros_like(taken.paid)
    for _ in range(attempts):
        given_back = np.maximum(after[0], np.interp(np.maximum(taken.bound, ENDED), grid, after))
        value = np.where(taken.passed, np.maximum(taken.paid, given_back), value.mean())
        after = np.array([_next(taken, lowest, grid, after) for lowest in grid])
    return Pay.of(value)


def _next(taken: Submissions, lowest: float, grid: Values, after: Values) -> float:
    """Worth of one more attempt, with others after it, for people whose lowest bound so far is `lowest`."""
    given_back = np.interp(np.clip(taken.bound, ENDED, lowest), grid, after)
    best = np.maximum(later_pay(taken, lowest), np.maximum(after[0], given_back))
    return float(np.where(taken.passed, best, np.interp(lowest, grid, after)).mean())
