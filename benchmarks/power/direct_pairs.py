"""Rows: how often direct pairs stop merges without cause, and what a base that is slow next to a sign lets a patch earn."""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from benchmarks.power.batch import Flags, Values, confirm
from benchmarks.power.cells import Cell, noise_cells, submissions
from benchmarks.power.intervals import at_most, binomial_upper
from benchmarks.power.old_pairs import FALSE_TARGET, KEPT, PAID, called_slow
from benchmarks.report import Row
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS, ERROR, bound_rank
from benchmarks.statistics.old import ALL_PAIRS, FIRST_PAIRS, MOST_ABOVE, STOP_ERROR

GAIN = 0.05  # of the honest patches; the decision does not depend on it
LIES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # times what was paid, in nats


def direct_rows(runs: int) -> Iterator[Row]:
    """The exact chance of a false stop by old or direct pairs, the simulated one of each noise, and what a lie earns."""
    either = float(2 * STOP_ERROR)
    yield Row(
        "false stop by old or direct pairs, base worth half of what was paid, exactly",
        round(either, 6),
        "",
        f"<= {FALSE_TARGET}",
        either <= FALSE_TARGET,
        f"each {ALL_PAIRS - MOST_ABOVE} of {ALL_PAIRS} below; the bound of the patch is not above its gain. With a bound from "
        f"{CONFIRMATION_PAIRS} pairs of the same noise direct pairs alone: {float(with_own_bound()):.6f}",
    )
    for seed, cell in enumerate(noise_cells()):
        count = int(falsely_stopped(cell, runs, 20_000 + seed).sum())
        yield Row(
            f"false stop by direct pairs, base worth half of what was paid: {cell.name}",
            binomial_upper(count, runs),
            "",
            f"<= {FALSE_TARGET}",
            at_most(count, runs, FALSE_TARGET),
            f"{count} of {runs}, with the bound of the confirmation that they are in; upper 95 % bound",
        )
    yield sign_row(max(1, runs // 10))


def with_own_bound() -> Fraction:
    """Chance of a false stop where direct pairs and the pairs of the bound are independent draws of one distribution.

    That is when at most `MOST_ABOVE` of the direct pairs are above the measured pair that is the bound: a matter of
    order alone. Base is worth exactly half of what was paid.
    """
    rank, pairs = bound_rank(CONFIRMATION_PAIRS, Fraction(0), ERROR), CONFIRMATION_PAIRS
    below = range(ALL_PAIRS - MOST_ABOVE, ALL_PAIRS + 1)
    ways = sum(
        math.comb(rank - 1 + count, count) * math.comb(pairs - rank + ALL_PAIRS - count, ALL_PAIRS - count)
        for count in below
    )
    return Fraction(ways, math.comb(pairs + ALL_PAIRS, ALL_PAIRS))


def falsely_stopped(cell: Cell, runs: int, seed: int) -> Flags:
    """True where direct pairs stop an honest patch over a base that is worth exactly half of what was paid."""
    rng = np.random.default_rng(seed)
    measured, direct = _confirmations(cell, runs, rng)
    bounds = confirm(measured + math.log1p(GAIN))
    paid = math.log1p(PAID[0])
    slow = called_slow(direct + math.log1p(GAIN) + KEPT * paid - bounds[:, None], paid)
    stopped: Flags = slow & (bounds > 0)
    return stopped


def _confirmations(cell: Cell, runs: int, rng: np.random.Generator) -> tuple[Values, Values]:
    """Noise of measured and direct pairs. The first direct pairs are at random places, the others come in the end."""
    noise = cell.draw(rng, runs, CONFIRMATION_PAIRS + ALL_PAIRS)
    mixed = CONFIRMATION_PAIRS + FIRST_PAIRS
    places = rng.random((runs, mixed)).argsort(axis=1)
    first = np.take_along_axis(noise, np.sort(places[:, :FIRST_PAIRS], axis=1), axis=1)
    measured = np.take_along_axis(noise, np.sort(places[:, FIRST_PAIRS:], axis=1), axis=1)
    return measured, np.concatenate([first, noise[:, mixed:]], axis=1)


def sign_row(runs: int) -> Row:
    """The most that a patch of a comment is paid where base is slow next to it and has what was paid elsewhere.

    Nothing is subtracted for the base's own award, which is lost where direct pairs find the lie.
    """
    most = {
        paid: max(
            (_earned(cell, paid, lie, runs, 20_500 + seed), lie, cell.name)
            for seed, cell in enumerate(noise_cells())
            for lie in LIES
        )
        for paid in PAID
    }
    told = "; ".join(
        f"{share:.2f} where {paid:.0%} was paid (slower by {lie:g} times that, {name})"
        for paid, (share, lie, name) in most.items()
    )
    return Row(
        "base slow next to a sign, with all that was paid elsewhere: the comment patch that gives it is paid, of that",
        max(share for share, _, _ in most.values()),
        "",
        None,
        None,
        f"expected, by the best lie and noise for it: {told}; {runs} submissions; without direct pairs there is no limit",
    )


def _earned(cell: Cell, paid: float, lie: float, runs: int, seed: int) -> float:
    """Expected pay of a patch without effect next to which base is slower by `lie` times what was paid, as a share of that."""
    paid_log = math.log1p(paid)
    judged = submissions(cell, runs, seed, math.expm1(lie * paid_log))
    direct = cell.draw(np.random.default_rng(seed + 500), runs, ALL_PAIRS, paid)
    is_found = called_slow(direct - judged.bound[:, None], paid_log)
    return float(np.where(is_found, 0.0, judged.paid).mean()) / paid_log
