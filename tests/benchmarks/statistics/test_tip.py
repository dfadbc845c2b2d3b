"""A check finds a merged tree that lost what was paid for it; that two agree by chance is rarer than 1 in a million."""

import random
from fractions import Fraction

import pytest

from benchmarks.statistics.tip import (
    CHECK_ERROR,
    CHECK_PAIRS,
    CHECKS_PROMISED,
    MOST_ABOVE,
    STOP_ERROR,
    TipOutcome,
    tip_outcome,
)
from benchmarks.statistics.units import PPB

PAID = PPB // 20
HALF = PAID // 2


def gains(true_log: float, sd: float = 0.01, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [round(PPB * rng.gauss(true_log, sd)) for _ in range(CHECK_PAIRS)]


def test_a_tree_that_kept_its_gain_and_one_that_lost_it() -> None:
    assert tip_outcome(gains(0.05), PAID) is TipOutcome.KEPT
    assert tip_outcome(gains(0.0), PAID) is TipOutcome.SLOW
    assert tip_outcome(gains(-0.2)[:-1], PAID) is TipOutcome.UNCLEAR


def test_six_pairs_above_half_are_chance_and_seven_are_not() -> None:
    below = [HALF - 1] * CHECK_PAIRS
    assert tip_outcome([*[HALF] * MOST_ABOVE, *below[MOST_ABOVE:]], PAID) is TipOutcome.SLOW
    assert tip_outcome([*[HALF] * (MOST_ABOVE + 1), *below[MOST_ABOVE + 1 :]], PAID) is TipOutcome.KEPT


def test_pairs_after_the_thirtieth_change_nothing() -> None:
    assert tip_outcome([*gains(0.0), *[PPB] * 20], PAID) is TipOutcome.SLOW


def test_a_thousand_checks_stop_merges_falsely_less_often_than_one_in_a_thousand() -> None:
    assert Fraction(1, 1000) > CHECK_ERROR
    assert STOP_ERROR == CHECK_ERROR**2
    assert Fraction(1, 1000) > CHECKS_PROMISED * STOP_ERROR
    assert Fraction(1, 2) < CHECKS_PROMISED * CHECK_ERROR  # one finding alone would not keep it


@pytest.mark.parametrize(("sd", "least"), [(0.01, 0.99), (0.02, 0.9)])
def test_a_lost_five_percent_is_found_by_most_checks(sd: float, least: float) -> None:
    found = sum(tip_outcome(gains(0.0, sd, seed), PAID) is TipOutcome.SLOW for seed in range(400))
    assert found / 400 >= least
