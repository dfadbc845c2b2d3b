"""The confirmation's bound is an exact order statistic, and everything is rounded against the contributor."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics.confirm import (
    CONFIRMATION_PAIRS,
    CORRELATION_STEPS,
    bound_rank,
    confirmation_bound,
    repeated_confirmation,
)
from benchmarks.statistics.median import (
    lower_bound_rank,
    median,
    standard_deviation,
    standard_error_of_median,
    tail_half,
)
from benchmarks.statistics.units import floor_ppm, log_ppb, pair_log_ppb, signed_percent, speed_times


def shuffled(values: list[float]) -> list[float]:
    """In an order whose neighbours do not resemble each other."""
    order = list(values)
    random.Random(4).shuffle(order)
    return order


def test_bound_is_the_eleventh_smallest_of_thirty() -> None:
    values = shuffled([number / 1000 for number in range(1, 31)])
    result = confirmation_bound(values)
    assert CONFIRMATION_PAIRS == 30
    assert (result.rank, result.bound_log_ppm, result.estimate_log_ppm) == (11, 11_000, 15_500)
    assert float(result.confidence) == pytest.approx(0.9506, abs=1e-4)
    assert result.is_gain


def test_twenty_four_pairs_are_more_careful() -> None:
    result = confirmation_bound(shuffled([number / 1000 for number in range(1, 25)]))
    assert result.rank == 8
    assert float(result.confidence) == pytest.approx(0.9680, abs=1e-4)


def test_pairs_that_resemble_their_neighbours_are_worth_less() -> None:
    values = [number / 1000 for number in range(1, 31)]
    drifting = confirmation_bound(values)
    assert drifting.correlation > Fraction(9, 10)
    assert (drifting.rank, drifting.bound_log_ppm) == (8, 8_000)
    assert drifting.confidence > confirmation_bound(shuffled(values)).confidence
    assert drifting.estimate_log_ppm == confirmation_bound(shuffled(values)).estimate_log_ppm


@pytest.mark.parametrize(
    ("count", "ranks"),
    [(24, [8, 7, 6, 5]), (30, [11, 10, 9, 8]), (60, [24, 23, 21, 20]), (90, [37, 35, 34, 32])],
)
def test_each_step_of_correlation_lowers_the_rank(count: int, ranks: list[int]) -> None:
    just_above = [Fraction(0), *(step + Fraction(1, 1000) for step in CORRELATION_STEPS)]
    assert [bound_rank(count, correlation) for correlation in just_above] == ranks
    assert bound_rank(count, Fraction(1, 10)) == ranks[0]  # at a step, not above it
    assert bound_rank(count, Fraction(-1)) == ranks[0]


def test_a_bound_needs_enough_pairs_for_its_error() -> None:
    with pytest.raises(ValueError, match="no bound"):
        bound_rank(4, Fraction(0))
    assert bound_rank(5, Fraction(1)) == 1


def test_a_repeated_confirmation_pools_all_pairs() -> None:
    bad, lucky = shuffled([-0.002] * 15 + [0.004] * 15), shuffled([0.05] * 30)
    assert repeated_confirmation([lucky]) == confirmation_bound(lucky)
    pooled = repeated_confirmation([bad, lucky])
    assert pooled.pairs == 60
    assert pooled.bound_log_ppm < confirmation_bound(lucky).bound_log_ppm
    assert pooled.confidence >= Fraction(99, 100)
    with pytest.raises(ValueError, match="no confirmation"):
        repeated_confirmation([])


def test_a_second_confirmation_misses_in_at_most_one_more_case_of_a_hundred() -> None:
    """Exactly: fewer than 20 of the first 30 above zero, then so many of 60 that the pooled bound is above it."""
    needed = 60 - bound_rank(60, Fraction(0), Fraction(1, 100)) + 1
    second = sum(Fraction(math.comb(30, first), 2**30) * tail_half(30, needed - first) for first in range(20))
    assert 0 < second <= Fraction(1, 100)
    assert tail_half(30, 20) + second <= Fraction(6, 100)


def test_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 24"):
        confirmation_bound([0.1] * 23)
    with pytest.raises(ValueError, match="finite"):
        confirmation_bound([0.1] * 30 + [math.nan])
    with pytest.raises(ValueError, match="finite"):
        confirmation_bound([0.1] * 30 + [math.inf])


def test_a_bound_of_zero_is_no_gain() -> None:
    assert not confirmation_bound([0.0] * 30).is_gain
    assert not confirmation_bound(shuffled([-0.001] * 11 + [0.5] * 19)).is_gain
    assert confirmation_bound(shuffled([-0.001] * 10 + [0.5] * 20)).is_gain


@pytest.mark.parametrize("count", [5, 6, 24, 25, 30, 48])
def test_rank_is_the_largest_that_keeps_the_error(count: int) -> None:
    rank = lower_bound_rank(count, Fraction(1, 20))
    assert rank is not None

    def miss(
        at: int,
    ) -> Fraction:  # P(the at-th smallest is above the median) = P(at most at - 1 are below)
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
        (999, "0.0 %"),
        (9_951, "+1.0 %"),
        (48_790, "+4.9 %"),
        (-51_293, "-5.0 %"),
        (693_147, "+99.9 %"),
        (-500, "-0.1 %"),
    ],
)
def test_a_change_has_its_sign_and_is_rounded_down(ppm: int, text: str) -> None:
    assert signed_percent(ppm) == text


@pytest.mark.parametrize(
    ("ppm", "text"),
    [(0, "1.00x"), (693_148, "2.00x"), (693_147, "1.99x"), (-693_147, "0.50x"), (9_951, "1.01x")],
)
def test_a_speed_is_a_factor_rounded_down(ppm: int, text: str) -> None:
    assert speed_times(ppm) == text


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
