"""A gain in many forms: the simulated rule is the judge's, and giving a bound back does not pay."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.power import batch
from benchmarks.power.abuses import withdrawn
from benchmarks.power.cells import Cell, Submissions, submissions
from benchmarks.power.disguises import ENDED, later_bound, later_pay, persistent, self_ended
from benchmarks.power.pay import Pay
from benchmarks.power.strategies import ATTEMPTS, NOISES
from benchmarks.statistics.confirm import confirmation_bound
from benchmarks.statistics.earlier import LATER_ERROR, EarlierConfirmations, bound_after

RUNS = 2_000


def without_rule(taken: Submissions) -> Submissions:
    """The same submissions, a later bound being like a first one."""
    return replace(taken, strict=taken.bound)


@pytest.mark.parametrize("lowest_ppm", [None, 15_000, 40_000])
def test_the_simulated_rule_is_the_judge_s(lowest_ppm: int | None) -> None:
    values = 0.02 * np.random.default_rng(1).standard_normal((300, 30)) + 0.05
    usual, strict = batch.confirm(values), batch.confirm(values, LATER_ERROR)
    simulated = later_bound(usual, strict, ENDED if lowest_ppm is None else lowest_ppm / 1e6)
    earlier = EarlierConfirmations(1, lowest_ppm)
    for row, pairs in enumerate(values.tolist()):
        real = bound_after(confirmation_bound(pairs), pairs, earlier).result.bound_log_ppm
        assert max(real, 0) == pytest.approx(max(0, math.floor(float(simulated[row]) * 1e6)), abs=1)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
@pytest.mark.parametrize("gain", [0.05, 0.10])
def test_a_run_that_ends_itself_in_ten_disguises_earns_no_more_than_honest_play(
    noise: Cell, gain: float
) -> None:
    taken = submissions(noise, RUNS, 5, gain)
    honest = Pay.of(taken.paid)
    assert self_ended(taken, ATTEMPTS).mean / honest.mean < 1.006
    assert self_ended(without_rule(taken), ATTEMPTS).mean / honest.mean > 1.03  # what the rule prevents


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_of_a_small_gain_only_persistence_is_left(noise: Cell) -> None:
    """A gate that missed a real 2 % may be tried again; ending runs adds next to nothing to that."""
    taken = submissions(noise, RUNS, 6, 0.02)
    kept, ended = persistent(taken, ATTEMPTS), self_ended(taken, ATTEMPTS)
    assert 1.0 <= ended.mean / kept.mean < 1.02
    assert ended.mean <= self_ended(without_rule(taken), ATTEMPTS).mean
    assert kept.mean <= persistent(taken, ATTEMPTS, has_rule=False).mean
    assert kept.mean <= math.log1p(0.02)


def test_one_attempt_is_honest_play() -> None:
    taken = submissions(NOISES[1], RUNS, 7, 0.05)
    assert self_ended(taken, 1).mean == persistent(taken, 1).mean == taken.paid.mean()


def test_the_first_submission_is_found_and_paid_as_before() -> None:
    """The rule touches later ones only: the bound of a first one is the usual one."""
    taken = submissions(NOISES[1], RUNS, 8, 0.02)
    paid = np.minimum(np.maximum(taken.bound, 0.0), np.maximum(taken.reserve, 0.0))
    assert (taken.paid == paid).all() and taken.passed.mean() > 0.9


def test_later_pay_is_nothing_without_a_gate_and_at_most_the_reserve() -> None:
    taken = submissions(NOISES[3], RUNS, 9, 0.02)
    for lowest in (ENDED, 0.01, math.inf):
        paid = later_pay(taken, lowest)
        assert (paid[~taken.passed] == 0.0).all()
        assert (paid <= np.maximum(taken.reserve, 0.0)).all() and (paid <= taken.paid).all()


def test_who_withdraws_is_paid_only_what_passed_before() -> None:
    paid, looks = np.array([0.05, 0.03, 0.0]), np.array([12, 48, 24])
    assert withdrawn(paid, looks, 12).tolist() == [0.05, 0.0, 0.0]
    assert withdrawn(paid, looks, 48).tolist() == paid.tolist()
