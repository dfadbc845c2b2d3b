"""The power table's rows of direct pairs: false stops, exactly and in each noise, and what a lie by a sign earns."""

import random
from fractions import Fraction

from benchmarks.power.cells import noise_cells
from benchmarks.power.direct_pairs import direct_rows, falsely_stopped, sign_row, with_own_bound
from benchmarks.power.old_pairs import FALSE_TARGET, PAID
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS, confirmation_bound
from benchmarks.statistics.old import ALL_PAIRS, STOP_ERROR, OldOutcome, old_decision
from benchmarks.statistics.units import PPB


def test_the_exact_row_holds_and_each_noise_has_one() -> None:
    exact, *rows = direct_rows(200)
    assert exact.holds is True and exact.value == round(float(2 * STOP_ERROR), 6) == 0.000519
    assert len(rows) == len(list(noise_cells())) + 1
    assert all(row.target == f"<= {FALSE_TARGET}" for row in rows[:-1])


def test_no_noise_stops_a_base_that_kept_half() -> None:
    for seed, cell in enumerate(noise_cells()):
        assert falsely_stopped(cell, 2_000, seed).sum() <= 5, cell.name


def test_a_bound_of_the_same_noise_makes_false_stops_rarer() -> None:
    assert 0 < with_own_bound() < STOP_ERROR
    rng, stopped, runs = random.Random(1), 0, 300
    for _ in range(runs):  # by the rules of documents; the chance of each is 1 in 14,000
        measured = [0.05 + rng.gauss(0, 0.02) for _ in range(CONFIRMATION_PAIRS)]
        bound = confirmation_bound(measured).bound_log_ppm * 1_000
        worth = [round(PPB * (0.05 + 0.01 + rng.gauss(0, 0.02))) - bound for _ in range(ALL_PAIRS)]
        stopped += old_decision(worth, PPB // 50).outcome is OldOutcome.SLOW
    assert stopped <= 1


def test_the_chance_of_an_order_is_that_counted_by_hand() -> None:
    """15 or 16 direct pairs are below the 11th of 30 measured ones: C(26,16) and C(25,15) x 20 of C(46,16) orders."""
    assert with_own_bound() == Fraction(5_311_735 + 20 * 3_268_760, 991_493_848_554)


def test_what_a_lie_earns_is_printed_for_each_amount_and_has_no_target() -> None:
    row = sign_row(50)
    assert row.target is None and row.holds is None
    assert isinstance(row.value, float) and row.value > 0.5
    assert all(f"where {paid:.0%} was paid" in row.how for paid in PAID)
