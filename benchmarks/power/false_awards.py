"""Rows: gains found where there are none, by the gate, by gate and confirmation, and by submitting again and again."""

from collections.abc import Iterator

import numpy as np

from benchmarks.power.cells import PLAN, Cell, null_cells, submissions
from benchmarks.power.intervals import at_most, binomial_upper
from benchmarks.report import Row
from benchmarks.statistics.gate import boundaries
from benchmarks.statistics.walk import reached_at

TARGET = 0.001
DISGUISED = 20  # attempts of one person, each a different patch to look at
DISGUISED_TARGET = 0.01


def alpha_row() -> Row:
    """Error that the looks from 12 on spend exactly, if every pair is above the allowance with probability 1/2."""
    needed = boundaries(PLAN.alpha)
    spent = float(sum(reached_at(needed).values()))
    how = "exact random walk; needed above the allowance: " + ", ".join(
        f"{count} of {look}" for look, count in needed.items()
    )
    return Row("error of all looks from 12 on", round(spent, 8), "", "<= 0.0009", spent <= 0.0009, how)


def false_award_rows(runs: int) -> Iterator[Row]:
    """Rows of every null cell: the gate alone, the whole chain, and the chain after resubmitting until all looks are used.

    Then the possible win of a person with many different patches without effect, in the worst cell.
    """
    gate_rows, chain_rows, pooled_rows, worst = [], [], [], (0, "")
    for seed, cell in enumerate(null_cells()):
        once = submissions(cell, runs, seed)
        awards = int(once.awarded.sum())
        gate_rows.append(
            _row(f"false gain at the gate: {cell.name}", int(once.passed.sum()), runs, "runs pass")
        )
        chain_rows.append(_row(f"false award, gate and confirmation: {cell.name}", awards, runs, "earn"))
        pooled_rows.append(_pooled_row(cell, runs, seed))
        groups = runs // DISGUISED
        winners = int(once.awarded[: groups * DISGUISED].reshape(groups, DISGUISED).any(axis=1).sum())
        worst = max(worst, (winners, cell.name))
    yield from gate_rows
    yield from chain_rows
    yield from pooled_rows
    groups = runs // DISGUISED
    yield Row(
        f"an award within {DISGUISED} different patches without effect, worst noise",
        worst[0] / groups,
        "",
        f"<= {DISGUISED_TARGET}",
        at_most(worst[0], groups, DISGUISED_TARGET),
        f"{worst[0]} of {groups} people win something ({worst[1] or 'no cell'}); "
        f"upper 95 % bound {binomial_upper(worst[0], groups):.4f}",
    )


def _pooled_row(cell: Cell, runs: int, seed: int) -> Row:
    again = submissions(cell, runs, seed, is_continued=True)
    pairs = float(np.mean(again.look))
    return _row(
        f"false award, resubmitted until no look is left: {cell.name}",
        int(again.awarded.sum()),
        runs,
        f"earn after all attempts ({int(again.passed.sum())} pass the gate; {pairs:.0f} pairs on average)",
    )


def _row(name: str, found: int, runs: int, what: str) -> Row:
    upper = binomial_upper(found, runs)
    how = f"{found} of {runs} without effect {what}; upper 95 % bound of the rate"
    return Row(name, upper, "", f"<= {TARGET}", at_most(found, runs, TARGET), how)
