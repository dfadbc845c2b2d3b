"""Rows: true gains found and paid, pairs that patches without a gain take, coverage of the confirmation's bound."""

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.judging.noise_models import autocorrelated_strongly, gaussian
from benchmarks.power.batch import REGRESSION, confirm
from benchmarks.power.cells import SIZES, Cell, noise_cells, submissions
from benchmarks.power.intervals import binomial_lower
from benchmarks.report import Row
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS

EFFECTS = ((0.01, None), (0.02, 0.80), (0.05, 0.95), (0.10, 0.95))
MISS_TARGET = 0.05


def found_rows(runs: int) -> Iterator[Row]:
    """Rows of every noise and effect: the rate at which the gate finds the gain, and the share of it that is paid."""
    found_rows, paid_rows = [], []
    for effect, target in EFFECTS:
        for seed, cell in enumerate(noise_cells()):
            taken = submissions(cell, runs, 1_000 + seed, effect)
            found = float(taken.passed.mean())
            paid = float(taken.paid.mean()) / math.log1p(effect)
            found_rows.append(
                Row(
                    f"{effect:.0%} gain found: {cell.name}",
                    found,
                    "",
                    None if target is None else f">= {target}",
                    None if target is None else found >= target,
                    f"{runs} runs, median {np.median(taken.look):.0f} pairs, 95 % take at most "
                    f"{np.quantile(taken.look, 0.95):.0f}",
                )
            )
            paid_rows.append(
                Row(
                    f"share of a true {effect:.0%} gain paid: {cell.name}",
                    paid,
                    "",
                    "<= 1",
                    paid <= 1.0,
                    f"expected award over the whole gain's, {runs} submissions; "
                    f"{float(taken.paid[taken.passed].mean()) / math.log1p(effect) if found else 0.0:.0%} once found",
                )
            )
    yield from found_rows
    yield from paid_rows


def pairs_rows(runs: int) -> Iterator[Row]:
    """Pairs that patches without effect, or slower ones, take."""
    for name, effect, most in (("no effect", 0.0, 24), ("5 % slower", -0.05, 24), ("20 % slower", -0.20, 12)):
        for sd in SIZES:
            taken = submissions(Cell(name, gaussian, sd), runs, 2_000, effect)
            value = float(np.quantile(taken.look, 0.95))
            slower = float((taken.outcome == REGRESSION).mean())
            how = f"95th percentile of {runs} runs; mean {taken.look.mean():.1f}; regression in {slower:.1%}"
            yield Row(f"pairs for {name}, sd {sd:.0%}", value, "pairs", f"<= {most}", value <= most, how)


def coverage_rows(runs: int) -> Iterator[Row]:
    """Rate at which the confirmation's bound is above a true gain of 5 %, and the share of it that a confirmation pays."""
    truth = math.log1p(0.05)
    strongly = [Cell(f"AR(1) 0.5 of the candidate, sd {sd:.0%}", autocorrelated_strongly, sd) for sd in SIZES]
    for seed, cell in enumerate([*noise_cells(), *strongly]):
        rng = np.random.default_rng(3_000 + seed)
        bounds = confirm(cell.draw(rng, runs, CONFIRMATION_PAIRS, 0.05))
        over = int((bounds > truth).sum())
        paid = float(np.maximum(bounds, 0.0).mean()) / truth
        how = f"{runs} confirmations of {CONFIRMATION_PAIRS} pairs; on average {paid:.0%} of the true gain is paid"
        holds = binomial_lower(over, runs) <= MISS_TARGET
        yield Row(f"bound above a true 5 %: {cell.name}", over / runs, "", f"<= {MISS_TARGET}", holds, how)
