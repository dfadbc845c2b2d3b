"""The bound after earlier confirmations of one person: nothing is won by giving a bound back."""

import math
import random
from fractions import Fraction

import pytest

from benchmarks.statistics.confirm import confirmation_bound
from benchmarks.statistics.earlier import LATER_ERROR, EarlierConfirmations, bound_after
from benchmarks.statistics.median import lower_bound_rank, tail_half


def pairs(seed: int, effect: float = 0.05, sd: float = 0.02) -> list[float]:
    rng = random.Random(seed)
    return [effect + rng.gauss(0, sd) for _ in range(30)]


def test_a_first_confirmation_is_unchanged() -> None:
    values = pairs(1)
    usual = confirmation_bound(values)
    assert bound_after(usual, values, None).result == usual
    assert not bound_after(usual, values, None).is_strict


def test_a_later_one_is_bounded_by_the_fourth_smallest_of_30() -> None:
    assert lower_bound_rank(30, LATER_ERROR) == 4
    assert tail_half(30, 27) <= LATER_ERROR < tail_half(30, 26)
    values = [index / 1000 for index in range(1, 31)]
    random.Random(3).shuffle(values)
    assert confirmation_bound(values).correlation < Fraction(1, 10)
    later = bound_after(confirmation_bound(values), values, EarlierConfirmations(1, None))
    assert later.is_strict and (later.result.rank, later.result.bound_log_ppm) == (4, 4_000)


@pytest.mark.parametrize("seed", range(20))
def test_giving_a_bound_back_never_pays_more_than_the_bound_or_the_strict_one(seed: int) -> None:
    given_back = confirmation_bound(pairs(100 + seed)).bound_log_ppm
    values = pairs(seed)
    usual = confirmation_bound(values)
    strict = bound_after(usual, values, EarlierConfirmations(1, None)).result.bound_log_ppm
    later = bound_after(usual, values, EarlierConfirmations(1, given_back))
    assert later.result.bound_log_ppm == max(strict, min(usual.bound_log_ppm, given_back))
    assert later.result.estimate_log_ppm == usual.estimate_log_ppm
    assert later.result.bound_log_ppm <= max(strict, given_back)


def test_who_mends_what_failed_a_rail_is_paid_as_before() -> None:
    values = pairs(5)
    usual = confirmation_bound(values)
    later = bound_after(usual, values, EarlierConfirmations(2, usual.bound_log_ppm + 1))
    assert later.result == usual and not later.is_strict


def test_values_that_are_not_finite_are_refused() -> None:
    values = pairs(5)
    with pytest.raises(ValueError, match="finite"):
        bound_after(confirmation_bound(values), [*values, math.inf], EarlierConfirmations(1, None))
