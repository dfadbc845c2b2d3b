"""Rows: what a candidate earns that slows base down, what an honest one is paid, and how often it is suspected.

Base's time has noise that both sides of a pair share and one pair's does not have from the next: its *spread*. It hides a
slow-down from the control pairs, while the pair's own ratio may be steady. So every kind of noise is simulated at several
spreads. The control pairs' part moves with a slow-down as a whole, so it is simulated once for each kind and spread.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from fractions import Fraction

import numpy as np

from benchmarks.judging.noise_models import MODELS, Model
from benchmarks.power.batch import Counts, Flags, Values
from benchmarks.power.cells import SIZES, Cell, Submissions, submissions
from benchmarks.power.intervals import at_most, binomial_upper
from benchmarks.report import Row
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS
from benchmarks.statistics.controls import (
    BLOCK,
    CUT_ERROR,
    FIRST_CONTROLS,
    LEAST_COMPARISONS,
    LEAST_SUSPICIOUS_LOG,
    SEAT_CUT_ERROR,
    SURE_ERROR,
    TARGET_LOG_PPB,
)
from benchmarks.statistics.signed_rank import bound_rank
from benchmarks.statistics.units import PPB

SPREADS = (0.01, 0.03, 0.08)
SLOWDOWNS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.24)
GAINS = (0.02, 0.05, 0.10)
EARNED_TARGET, STEADY_SPREAD = 0.01, 0.01
HONEST_TARGET, SUSPECTED_TARGET, FOUND_TARGET = 0.95, 0.001, 0.95
TARGET_LOG = TARGET_LOG_PPB / PPB
TINY = 1e-12  # instead of nothing, where no simulated submission was paid
_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Compared:
    """Per run, in nats: the estimate of a difference, its 98 % bound and its bound at 1 in 2,000, and how many pairs made it."""

    estimate: Values
    lower: Values
    sure: Values
    found: Values
    count: Counts

    def cut(self, slowdown: float = 0.0) -> Values:
        """What the price is cut by where the true difference is `slowdown`."""
        cut: Values = np.where(self.lower + slowdown > 0, np.maximum(self.estimate + slowdown, 0.0), 0.0)
        return cut

    def suspicious(self, slowdown: float = 0.0) -> Flags:
        """True where a maintainer is asked."""
        suspicious: Flags = (self.estimate + slowdown > LEAST_SUSPICIOUS_LOG) & (self.sure + slowdown > 0)
        return suspicious


NAMES = tuple(field.name for field in fields(Compared))


@dataclass(frozen=True, slots=True)
class Controls:
    """Both differences of each run where nothing is slowed down."""

    slowdown: Compared
    seat: Compared

    def paid(self, taken: Submissions, *, slowdown: float = 0.0, seat: float = 0.0) -> Values:
        """What each run is paid, in nats, where base loses so much by being paired with the candidate, or in its own seat."""
        cut = self.slowdown.cut(slowdown) + self.seat.cut(seat)
        return taken.paid_after(cut, self.slowdown.suspicious(slowdown) | self.seat.suspicious(seat))


def partner_rows(runs: int) -> Iterator[Row]:
    """Rows of every noise at every spread of base: suspicions without cause, honest pay, and what slow bases earn."""
    suspected, paid, earned, in_place, found = [], [], [], [], []
    for seed, (name, model) in enumerate(MODELS.items()):
        slowed = {spread: slowdowns(model, spread, runs, 11_000 + seed) for spread in SPREADS}
        for spread, compared_ in slowed.items():
            suspected.append(_suspected_row(f"{name}, base's spread {spread:.0%}", compared_))
            found.append(_found_row(f"{name}, base's spread {spread:.0%}", compared_, spread))
        for sd in SIZES:
            cell = Cell(f"{name}, sd {sd:.0%}", model, sd)
            gains = [submissions(cell, runs, 12_000 + seed, gain) for gain in GAINS]
            tricks = [submissions(cell, runs, 13_000 + seed, math.expm1(slow)) for slow in SLOWDOWNS]
            for spread, compared_ in slowed.items():
                where = f"{cell.name}, base's spread {spread:.0%}"
                seat = seats(model, sd, compared_.count, 14_000 + seed)
                controls = Controls(compared_, seat)
                paid.append(_paid_row(where, gains, controls))
                partner = [
                    controls.paid(taken, slowdown=slow) for taken, slow in zip(tricks, SLOWDOWNS, strict=True)
                ]
                earned.append(
                    _earned_row(f"a partner slowed down: {where}", partner, spread <= STEADY_SPREAD)
                )
                own = [controls.paid(taken, seat=slow) for taken, slow in zip(tricks, SLOWDOWNS, strict=True)]
                in_place.append(_earned_row(f"a base slow in its own seat: {where}", own, is_held=True))
    for rows in (suspected, found, paid, earned, in_place):
        yield from rows


def _suspected_row(where: str, compared_: Compared) -> Row:
    runs, count = len(compared_.count), int(compared_.suspicious().sum())
    how = f"{count} of {runs} honest candidates suspected; {compared_.count.mean():.1f} control pairs; upper 95 % bound"
    holds = at_most(count, runs, SUSPECTED_TARGET)
    return Row(
        f"honest candidate suspected: {where}",
        binomial_upper(count, runs),
        "",
        f"<= {SUSPECTED_TARGET}",
        holds,
        how,
    )


def _found_row(where: str, compared_: Compared, spread: float) -> Row:
    share = float((compared_.lower + TARGET_LOG > 0).mean())
    stated = float(np.median(compared_.found))
    is_held = spread <= STEADY_SPREAD
    return Row(
        f"a slow-down of {TARGET_LOG} nats found: {where}",
        share,
        "",
        f">= {FOUND_TARGET}" if is_held else None,
        share >= FOUND_TARGET if is_held else None,
        f"{len(compared_.count)} confirmations; the median one says that {stated:.3f} nats would be found with 95 %",
    )


def _paid_row(where: str, gains: list[Submissions], controls: Controls) -> Row:
    shares = [float(controls.paid(taken).mean() / max(taken.paid.mean(), TINY)) for taken in gains]
    told = ", ".join(f"{share:.3f} of a {gain:.0%} gain" for share, gain in zip(shares, GAINS, strict=True))
    return Row(
        f"honest gain paid after the cut: {where}",
        min(shares),
        "",
        f">= {HONEST_TARGET}",
        min(shares) >= HONEST_TARGET,
        f"over what its bound alone would pay: {told}; {len(controls.seat.count)} submissions",
    )


def _earned_row(name: str, paid: list[Values], is_held: bool) -> Row:
    earned = [float(each.mean()) for each in paid]
    best = max(range(len(earned)), key=earned.__getitem__)
    return Row(
        f"earned by {name}",
        earned[best],
        "nats",
        f"<= {EARNED_TARGET}" if is_held else None,
        earned[best] <= EARNED_TARGET if is_held else None,
        f"expected, by the best of {len(SLOWDOWNS)} slow-downs ({SLOWDOWNS[best]:.2f} nats); {len(paid[best])} submissions",
    )


def seats(model: Model, sd: float, count: Counts, seed: int) -> Compared:
    """The other difference of the same control pairs: between both sides of one pair, whose noise is `sd`."""
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, len(count), _AT_ONCE):
        chosen = count[start : start + _AT_ONCE]
        order = rng.choice(np.array([-1.0, 1.0]), (len(chosen), CONFIRMATION_PAIRS))
        parts.append(
            compared(sd * model(rng, len(chosen), CONFIRMATION_PAIRS) * order, chosen, SEAT_CUT_ERROR)
        )
    return _joined(parts)


def _joined(parts: list[Compared]) -> Compared:
    return Compared(*(np.concatenate([getattr(part, name) for part in parts]) for name in NAMES))


def slowdowns(model: Model, spread: float, runs: int, seed: int) -> Compared:
    """The control pairs of `runs` confirmations: as many in each block as `next_controls` asks for."""
    rng = np.random.default_rng(seed)
    parts = [
        _slowdowns(model, spread, min(_AT_ONCE, runs - start), rng) for start in range(0, runs, _AT_ONCE)
    ]
    return _joined(parts)


def _slowdowns(model: Model, spread: float, runs: int, rng: np.random.Generator) -> Compared:
    base = spread * model(rng, runs, 2 * CONFIRMATION_PAIRS)
    order = rng.choice(np.array([-1.0, 1.0]), (runs, CONFIRMATION_PAIRS))  # which of the two came first
    differences = (base[:, ::2] - base[:, 1::2]) * order
    count = np.full(runs, FIRST_CONTROLS)
    blocks = CONFIRMATION_PAIRS // BLOCK
    for block in range(1, blocks):
        found = compared(differences, count).found
        with np.errstate(invalid="ignore"):
            needed = np.ceil(count * (found / TARGET_LOG) ** 2)
        missing = np.maximum(LEAST_COMPARISONS, needed) - count
        more = np.clip(np.ceil(missing / (blocks - block)), 1, BLOCK)
        count = count + np.where(np.isnan(found), FIRST_CONTROLS, more).astype(np.int64)
    return compared(differences, count)


def compared(differences: Values, count: Counts, cut_error: Fraction = CUT_ERROR) -> Compared:
    """`benchmarks.statistics.controls.difference` on many rows; row i has its first `count[i]` values. NaN where there is no bound."""
    found = {name: np.full(len(differences), np.nan) for name in ("estimate", "lower", "sure", "found")}
    for number in np.unique(count):
        rows = count == number
        first, second = np.triu_indices(number)
        values = differences[rows, :number]
        averages = np.sort((values[:, first] + values[:, second]) / 2, axis=1)
        found["estimate"][rows] = np.median(averages, axis=1)
        rank = bound_rank(int(number), cut_error)
        if rank is not None:
            found["lower"][rows] = averages[:, rank - 1]
            found["found"][rows] = 0.9 * (averages[:, -rank] - averages[:, rank - 1])
        sure = bound_rank(int(number), SURE_ERROR)
        if sure is not None:
            found["sure"][rows] = averages[:, sure - 1]
    return Compared(**found, count=count)
