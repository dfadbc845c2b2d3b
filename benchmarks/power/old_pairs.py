"""Rows: how often old pairs, and scheduled checks of merged trees, call a base slow that is not, or find one that is."""

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.power.batch import Flags, Values
from benchmarks.power.cells import Cell, noise_cells, submissions
from benchmarks.power.intervals import at_most, binomial_upper
from benchmarks.report import Row
from benchmarks.statistics import tip
from benchmarks.statistics.old import ALL_PAIRS, FIRST_PAIRS, MOST_ABOVE, STOP_ERROR

PAID = (0.01, 0.02, 0.05, 0.10)
FALSE_TARGET = 0.001
KEPT = 0.5  # of what was paid: a base that keeps that much passes the old pairs by design
MOST_PAID_AGAIN = 1 - KEPT


def old_rows(runs: int) -> Iterator[Row]:
    """Every noise: a base that is worth exactly what was paid for it, and one that is as slow as the tree before it."""
    yield Row(
        "false stop, base worth half of what was paid, exactly",
        round(float(STOP_ERROR), 6),
        "",
        f"<= {FALSE_TARGET}",
        float(STOP_ERROR) <= FALSE_TARGET,
        f"{ALL_PAIRS - MOST_ABOVE} of {ALL_PAIRS} old pairs below half; {FIRST_PAIRS} pairs are enough to see that it is not so",
    )
    false, found = [], []
    for seed, cell in enumerate(noise_cells()):
        worst = max(_stopped(cell, paid, paid, runs, 19_000 + seed) for paid in PAID)
        false.append(
            Row(
                f"false stop, base worth what was paid: {cell.name}",
                binomial_upper(worst, runs),
                "",
                f"<= {FALSE_TARGET}",
                at_most(worst, runs, FALSE_TARGET),
                f"{worst} of {runs} at the worst of {', '.join(f'{paid:.0%}' for paid in PAID)} paid; upper 95 % bound",
            )
        )
        shares = [_stopped(cell, paid, 0.0, runs, 19_500 + seed) / runs for paid in PAID]
        told = ", ".join(
            f"{share:.2f} where {paid:.0%} was paid" for share, paid in zip(shares, PAID, strict=True)
        )
        found.append(
            Row(
                f"a base that lost a paid 5 % found by one confirmation: {cell.name}",
                shares[PAID.index(0.05)],
                "",
                None,
                None,
                told,
            )
        )
    yield from false
    yield from found
    yield half_row(max(1, runs // 10))


def half_row(runs: int) -> Row:
    """What a patch that changes a comment is paid over a base that keeps half of what was paid for it.

    Nothing is subtracted for old pairs that call such a base slow: the promise is that they rarely do.
    """
    shares = {
        (cell.name, paid): float(
            submissions(cell, runs, 19_900 + seed, math.expm1((1 - KEPT) * math.log1p(paid))).paid.mean()
        )
        / math.log1p(paid)
        for seed, cell in enumerate(noise_cells())
        for paid in PAID
    }
    where, paid = max(shares, key=shares.__getitem__)
    most = {amount: max(share for (_, each), share in shares.items() if each == amount) for amount in PAID}
    told = ", ".join(f"{share:.2f} where {amount:.0%} was paid" for amount, share in most.items())
    return Row(
        f"slow base that keeps {KEPT:.0%} of what was paid for it: the next comment patch is paid, of that",
        shares[where, paid],
        "",
        f"<= {MOST_PAID_AGAIN}",
        shares[where, paid] <= MOST_PAID_AGAIN,
        f"expected, by the best noise for it ({where}); at most {told}; {runs} submissions; one that keeps less is paid more "
        "unless old pairs find it, see the rows above",
    )


def tip_rows(runs: int) -> Iterator[Row]:
    """Scheduled checks: the exact chance of a false stop, and how many checks find a tree that lost a paid 5 %."""
    chance = float(tip.CHECKS_PROMISED * tip.STOP_ERROR)
    yield Row(
        f"false stop in {tip.CHECKS_PROMISED} scheduled checks, tree worth half of what was paid, exactly",
        round(chance, 6),
        "",
        f"<= {FALSE_TARGET}",
        chance <= FALSE_TARGET,
        f"{tip.CHECK_PAIRS - tip.MOST_ABOVE} of {tip.CHECK_PAIRS} pairs below half, in {tip.CHECKS_TO_AGREE} checks in a row",
    )
    for seed, cell in enumerate(noise_cells()):
        share = _found_by_checks(cell, 0.05, runs, 19_800 + seed)
        yield Row(
            f"a merged tree that lost a paid 5 % found by one scheduled check and its repetition: {cell.name}",
            share,
            "",
            None,
            None,
            f"after ten scheduled checks {1 - (1 - share) ** 10:.2f}",
        )


def _found_by_checks(cell: Cell, paid: float, runs: int, seed: int) -> float:
    """Share of runs in which two checks in a row find a tree that is as slow as the one before it."""
    rng = np.random.default_rng(seed)
    found = np.ones(runs, dtype=bool)
    for _ in range(tip.CHECKS_TO_AGREE):
        above = 2 * cell.draw(rng, runs, tip.CHECK_PAIRS, 0.0) >= math.log1p(paid)
        found &= above.sum(axis=1) <= tip.MOST_ABOVE
    return float(found.mean())


def _stopped(cell: Cell, paid: float, worth: float, runs: int, seed: int) -> int:
    values = cell.draw(np.random.default_rng(seed), runs, ALL_PAIRS, worth)
    return int(called_slow(values, math.log1p(paid)).sum())


def called_slow(values: Values, paid_log: float) -> Flags:
    """`benchmarks.statistics.old.old_decision` on many rows of ln(old / base): True where base is called slow."""
    above = 2 * values >= paid_log
    slow: Flags = (above[:, :FIRST_PAIRS].sum(axis=1) <= MOST_ABOVE) & (above.sum(axis=1) <= MOST_ABOVE)
    return slow
