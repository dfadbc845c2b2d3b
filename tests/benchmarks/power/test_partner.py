"""The simulated control pairs and old pairs are the real rules, and slow bases do not pay."""

import math

import numpy as np
import pytest

from benchmarks.judging.noise_models import MODELS
from benchmarks.power.abuses import aborted
from benchmarks.power.cells import Cell, submissions
from benchmarks.power.old_pairs import called_slow
from benchmarks.power.partner import (
    EARNED_TARGET,
    HONEST_TARGET,
    SLOWDOWNS,
    Controls,
    compared,
    seats,
    slowdowns,
)
from benchmarks.statistics.controls import SEAT_CUT_ERROR, next_controls, seat, slowdown
from benchmarks.statistics.old import OldOutcome, old_decision
from benchmarks.statistics.units import PPB

RUNS = 1_500


def test_the_simulated_differences_are_the_real_ones() -> None:
    rng = np.random.default_rng(1)
    count = rng.integers(1, 31, 200)
    values = 0.03 * rng.standard_normal((200, 30)) + 0.02
    partner, place = compared(values, count), compared(values, count, SEAT_CUT_ERROR)
    for row in range(200):
        whole = [round(PPB * each) for each in values[row, : count[row]]]
        real, own = slowdown(whole), seat(whole)
        assert partner.estimate[row] == pytest.approx(real.estimate_ppb / PPB, abs=1e-8)
        assert partner.cut()[row] == pytest.approx(real.cut_ppb / PPB, abs=1e-8)
        assert place.cut()[row] == pytest.approx(own.cut_ppb / PPB, abs=1e-8)
        assert np.isnan(partner.found[row]) == (real.found_ppb is None)
        if real.found_ppb is not None:
            assert partner.found[row] == pytest.approx(real.found_ppb / PPB, abs=1e-8)
        if count[row] >= 12:
            assert bool(partner.suspicious()[row]) == real.is_suspicious


def test_the_simulated_run_takes_as_many_control_pairs_as_a_real_one() -> None:
    for spread in (0.003, 0.015, 0.08):
        counts = slowdowns(MODELS["gaussian"], spread, 200, 3).count
        rng = np.random.default_rng(3)
        taken: list[int] = []
        for block in range(5):
            more = next_controls(slowdown(taken), 5 - block)
            taken += [round(PPB * math.sqrt(2) * spread * each) for each in rng.standard_normal(more)]
        assert counts.min() <= len(taken) <= counts.max()
        assert counts.min() >= 12 and counts.max() <= 24


def test_moving_all_values_moves_what_is_cut() -> None:
    plain = slowdowns(MODELS["heavy tails (t3)"], 0.02, 100, 5)
    rng = np.random.default_rng(8)
    values = 0.02 * rng.standard_normal((100, 30))
    still, moved = compared(values, plain.count), compared(values + 0.04, plain.count)
    np.testing.assert_allclose(still.cut(0.04), moved.cut(), atol=1e-12)
    np.testing.assert_array_equal(still.suspicious(0.04), moved.suspicious())


@pytest.mark.parametrize("name", ["gaussian", "heavy tails (t3)", "drift", "two equal modes"])
def test_a_slowed_partner_hardly_earns_where_base_is_steady_and_honest_gains_are_paid(name: str) -> None:
    compared_ = slowdowns(MODELS[name], 0.01, RUNS, 7)
    controls = Controls(compared_, seats(MODELS[name], 0.01, compared_.count, 9))
    cell = Cell(name, MODELS[name], 0.01)
    for slow in SLOWDOWNS:
        taken = submissions(cell, RUNS, 11, math.expm1(slow))
        assert controls.paid(taken, slowdown=slow).mean() <= EARNED_TARGET
        assert controls.paid(taken, seat=slow).mean() <= EARNED_TARGET
    unseen = submissions(cell, RUNS, 11, math.expm1(0.12)).paid.mean()
    assert unseen > 0.1  # what was paid for it without control pairs
    for gain in (0.02, 0.05, 0.10):
        taken = submissions(cell, RUNS, 12, gain)
        assert controls.paid(taken).mean() >= HONEST_TARGET * taken.paid.mean()


@pytest.mark.parametrize("name", MODELS)
def test_honest_candidates_are_not_suspected_in_any_noise(name: str) -> None:
    # 1 in 2,000 at the most: 6 of 3,000 have a probability of 0.4 %.
    assert slowdowns(MODELS[name], 0.08, 3_000, 13).suspicious().sum() <= 6


def test_the_simulated_old_pairs_are_the_real_ones() -> None:
    values = 0.02 * np.random.default_rng(2).standard_normal((400, 14)) + 0.005
    slow = called_slow(values, 0.05)
    assert 20 < slow.sum() < 380
    for row in range(400):
        real = old_decision([math.floor(PPB * each) for each in values[row]], round(0.05 * PPB))
        assert bool(slow[row]) == (real.outcome is OldOutcome.SLOW)


def test_a_run_that_ends_itself_is_paid_nothing() -> None:
    assert aborted(np.array([0.1, 0.2, 0.3, 0.4]), 0.5).tolist() == [0.0, 0.0, 0.3, 0.4]
