"""The confirmation's bound is an exact order statistic, and everything is rounded against the contributor."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics.confirm import CONFIRMATION_PAIRS, confirmation_bound
from benchmarks.statistics.median import (
    lower_bound_rank,
    median,
    standard_deviation,
    standard_error_of_median,
    tail_half,
)
from benchmarks.statistics.units import floor_ppm, log_ppb, pair_log_ppb, percent_faster


def test_bound_is_the_eleventh_smallest_of_thirty() -> None:
    values = [number / 1000 for number in range(1, 31)]
    result = confirmation_bound(values[::-1])
    assert CONFIRMATION_PAIRS == 30
    assert (result.rank, result.bound_log_ppm, result.estimate_log_ppm) == (11, 11_000, 15_500)
    assert float(result.confidence) == pytest.approx(0.9506, abs=1e-4)
    assert result.is_gain


def test_twenty_four_pairs_are_more_careful() -> None:
    result = confirmation_bound([number / 1000 for number in range(1, 25)])
    assert result.rank == 8
    assert float(result.confidence) == pytest.approx(0.9680, abs=1e-4)


def test_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 24"):
        confirmation_bound([0.1] * 23)
    with pytest.raises(ValueError, match="finite"):
        confirmation_bound([0.1] * 30 + [math.nan])
    with pytest.raises(ValueError, match="finite"):
        confirmation_bound([0.1] * 30 + [math.inf])


def test_a_bound_of_zero_is_no_gain() -> None:
    assert not confirmation_bound([0.0] * 30).is_gain
    assert not confirmation_bound([-0.001] * 11 + [0.5] * 19).is_gain
    assert confirmation_bound([-0.001] * 10 + [0.5] * 20).is_gain


@pytest.mark.parametrize("count", [5, 6, 24, 25, 30, 48])
def test_rank_is_the_largest_that_keeps_the_error(count: int) -> None:
    rank = lower_bound_rank(count, Fraction(1, 20))
    assert rank is not None

    def miss(
        at: int,
    ) -> Fraction:  # P(the at-th smallest lies above the median) = P(at most at - 1 lie below)
        return Fraction(sum(math.comb(count, k) for k in range(at)), 2**count)

    assert miss(rank) <= Fraction(1, 20) < miss(rank + 1)


def test_too_few_values_have_no_bound() -> None:
    assert lower_bound_rank(4, Fraction(1, 20)) is None
    assert tail_half(4, 4) == Fraction(1, 16)


def test_logarithms_are_rounded_down() -> None:
    assert log_ppb(Fraction(2)) == 693_147_180  # ln 2 = 0.6931471805...
    assert log_ppb(Fraction(1, 2)) == -693_147_181
    assert log_ppb(Fraction(1)) == 0
    assert floor_ppm(0.0000019) == 1
    assert floor_ppm(-0.0000011) == -2
    assert floor_ppm(5e-06) == 5
    with pytest.raises(ValueError, match="positive"):
        log_ppb(Fraction(0))


def test_a_pairs_value_is_the_median_over_its_calls() -> None:
    assert pair_log_ppb([(200, 100), (100, 100), (1000, 100)]) == log_ppb(Fraction(2))
    assert pair_log_ppb([(100, 100), (400, 100)]) == log_ppb(Fraction(4)) // 2
    with pytest.raises(ValueError, match="calls"):
        pair_log_ppb([])
    with pytest.raises(ValueError, match="positive"):
        pair_log_ppb([(1, 0)])


@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(1, 10**12)), min_size=1, max_size=9))
def test_exchanged_sides_never_gain_together(calls: list[tuple[int, int]]) -> None:
    forward = pair_log_ppb(calls)
    backward = pair_log_ppb([(candidate, base) for base, candidate in calls])
    assert -2 <= forward + backward <= 0  # exact but for rounding, which favours neither


@given(st.integers(1, 10**15), st.integers(1, 10**15))
def test_logarithms_agree_with_the_library(base: int, candidate: int) -> None:
    assert log_ppb(Fraction(base, candidate)) == pytest.approx(math.log(base / candidate) * 1e9, abs=2)


@pytest.mark.parametrize(
    ("ppm", "text"),
    [
        (0, "0.0 %"),
        (9_951, "1.0 %"),
        (48_790, "4.9 %"),
        (-51_293, "-5.0 %"),
        (693_147, "99.9 %"),
        (-500, "-0.1 %"),
    ],
)
def test_percent_is_rounded_down(ppm: int, text: str) -> None:
    assert percent_faster(ppm) == text


def test_order_statistics_of_small_samples() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert standard_deviation([1.0]) == 0.0
    assert standard_deviation([1.0, 2.0, 3.0]) == 1.0
    assert standard_error_of_median([1.0]) == 0.0
    with pytest.raises(ValueError, match="nothing"):
        median([])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=60), st.floats(-1, 1))
def test_standard_error_ignores_a_shift_and_never_is_negative(values: list[float], shift: float) -> None:
    error = standard_error_of_median(values)
    assert error >= 0
    assert standard_error_of_median([value + shift for value in values]) == pytest.approx(error, abs=1e-9)
