"""Rows: the guard rails' errors and pairs."""

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.catalogue.facts import GUARD_LOAD_MARGIN_LOG_PPM, GUARD_TIME_MARGIN_LOG_PPM
from benchmarks.judging.noise_models import gaussian
from benchmarks.power.batch import guard
from benchmarks.power.cells import Cell, noise_cells
from benchmarks.power.intervals import at_most, binomial_lower
from benchmarks.report import Row
from benchmarks.statistics.guard import BOUNDARIES, GuardPlan
from benchmarks.statistics.units import PPM
from benchmarks.statistics.walk import reached_at

TIME_MARGIN_LOG, LOAD_MARGIN_LOG = GUARD_TIME_MARGIN_LOG_PPM / PPM, GUARD_LOAD_MARGIN_LOG_PPM / PPM
RAILS = 8
LOSS_TARGET, EQUAL_TARGET = 0.05, 0.01


def guard_rows(runs: int) -> Iterator[Row]:
    """A loss of exactly the margin that holds; an equal candidate that some of eight rails stop."""
    spent = float(sum(reached_at(BOUNDARIES).values()))
    needed = ", ".join(f"{count} of {look}" for look, count in BOUNDARIES.items())
    yield Row(
        "guard rail: a loss of the margin holds, exactly",
        round(spent, 6),
        "",
        f"<= {LOSS_TARGET}",
        spent <= LOSS_TARGET,
        f"random walk; pairs needed above minus the margin: {needed}",
    )
    plan = GuardPlan(TIME_MARGIN_LOG)
    loss = math.expm1(-TIME_MARGIN_LOG)
    for seed, cell in enumerate(noise_cells()):
        held = guard(cell.draw(np.random.default_rng(5_000 + seed), runs, plan.most_pairs, loss), plan).holds
        count = int(held.sum())
        yield Row(
            f"guard rail: a loss of 3 % holds: {cell.name}",
            count / runs,
            "",
            f"<= {LOSS_TARGET}",
            binomial_lower(count, runs) <= LOSS_TARGET,
            f"{runs} rails with a margin of 3 %",
        )
    for what, margin, sds in (
        ("time", TIME_MARGIN_LOG, (0.01, 0.02, 0.03)),
        ("load", LOAD_MARGIN_LOG, (0.06, 0.08)),
    ):
        for sd in sds:
            yield _equal_row(what, GuardPlan(margin), sd, runs)


def _equal_row(what: str, plan: GuardPlan, sd: float, runs: int) -> Row:
    draws = Cell("", gaussian, sd).draw(np.random.default_rng(5_500), runs * RAILS, plan.most_pairs)
    taken = guard(draws, plan)
    stopped = int((~taken.holds.reshape(runs, RAILS)).any(axis=1).sum())
    margin = math.expm1(plan.margin_log)
    how = f"{runs} candidates; {taken.look.mean():.1f} pairs a rail on average, all rails after {RAILS * taken.look.mean():.0f}"
    return Row(
        f"guard rails: equal candidate stopped by one of {RAILS} ({what}, margin {margin:.0%}, sd {sd:.0%})",
        stopped / runs,
        "",
        f"<= {EQUAL_TARGET}",
        at_most(stopped, runs, EQUAL_TARGET),
        how,
    )
