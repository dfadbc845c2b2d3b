"""Diagnostics describe the machine, in numbers and in words; a quiet run says nothing."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics.diagnostics import (
    PairOrder,
    diagnose,
    has_trend,
    outlier_positions,
    theil_sen_slope,
)
from benchmarks.statistics.serial import midranks, serial_correlation


def quiet(count: int, seed: int = 1, scale: float = 0.01) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(0.0, scale) for _ in range(count)]


def test_noise_and_controls_are_described() -> None:
    found = diagnose([0.001, -0.001, 0.002, -0.002], [0.001, 0.003])
    assert (found.pairs, found.controls) == (4, 2)
    assert found.control_offset == 2_000
    assert found.control_noise == pytest.approx(1_414, abs=1)
    assert found.noise == pytest.approx(1_825, abs=1)
    assert (found.spawn_effect, found.first_turn_effect, found.words) == (None, None, ())


def test_nothing_measured_says_nothing() -> None:
    found = diagnose([])
    assert (found.pairs, found.noise, found.drift, found.outliers, found.correlation) == (0, 0, 0, (), 0)
    assert found.control_noise is None
    assert found.control_offset is None
    assert found.words == ()


def test_a_drift_is_the_change_over_the_whole_run() -> None:
    found = diagnose([0.002 * number for number in range(21)])
    assert found.drift == 40_000
    assert any("drift: +4.0 % from the first" in word for word in found.words)
    falling = diagnose([-0.002 * number for number in range(21)])
    assert any("drift: -" in word for word in falling.words)


def test_a_slope_is_not_moved_by_one_wild_pair() -> None:
    values = [0.001 * number for number in range(20)]
    values[19] = 5.0
    assert theil_sen_slope(values) == pytest.approx(0.001, abs=2e-4)
    assert theil_sen_slope([1.0]) == 0.0
    assert theil_sen_slope([1.0, 3.0]) == 2.0


def test_noise_has_no_trend_and_a_rise_has() -> None:
    assert not has_trend(quiet(40))
    assert has_trend([value + 0.002 * number for number, value in enumerate(quiet(40))])
    assert not has_trend([float(number) for number in range(7)])  # too few to say


def test_outliers_are_named_by_their_position() -> None:
    values = [*quiet(10), 0.9, *quiet(10, seed=2), -0.8]
    assert outlier_positions(values) == (10, 21)
    words = diagnose(values).words
    assert any("2 of 22 pairs are far from the others (number 11, 22)" in word for word in words)
    assert outlier_positions([1.0, 1.0, 1.0, 2.0]) == ()  # no spread to measure by


def test_many_outliers_are_cut_short() -> None:
    values = [*quiet(40), *[1.0 + number for number in range(7)]]
    assert any("number 41, 42, 43, 44, 45 ...)" in word for word in diagnose(values).words)


def test_neighbours_that_resemble_each_other_are_seen() -> None:
    noise = np.random.default_rng(3).standard_normal(60)
    for pair in range(1, 60):
        noise[pair] += 0.8 * noise[pair - 1]
    found = diagnose(noise.tolist())
    assert found.correlation > 400_000
    assert any("are similar" in word for word in found.words)
    assert not any("resemble" in word for word in diagnose(quiet(60)).words)


def test_serial_correlation_of_known_sequences() -> None:
    rising = list(map(float, range(10)))
    assert serial_correlation(rising) == 1 - Fraction(9, 165)
    assert serial_correlation([1.0, -1.0] * 5) < Fraction(-3, 4)
    assert serial_correlation([1.0] * 20) == 0
    assert serial_correlation(rising[:7]) == 0


def test_equal_values_share_their_ranks() -> None:
    assert midranks([3.0, 1.0, 2.0]) == [6, 2, 4]
    assert midranks([5.0, 1.0, 5.0, 0.0]) == [7, 4, 7, 2]
    assert midranks([]) == []


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=40))
def test_correlation_only_sees_ranks(values: list[float]) -> None:
    cubed = [value * 4 for value in values]  # keeps every order, exactly
    assert serial_correlation(values) == serial_correlation(cubed)
    assert -1 <= serial_correlation(values) <= 1


def test_an_effect_of_the_starting_order_is_seen() -> None:
    orders = [PairOrder(base_first=number % 3 != 0) for number in range(30)]
    values = [
        noise + (0.03 if order.base_first else 0.0) for noise, order in zip(quiet(30), orders, strict=True)
    ]
    found = diagnose(values, orders=orders)
    assert found.spawn_effect == pytest.approx(30_000, abs=8_000)
    assert any("Order of starting matters: the candidate looks +" in word for word in found.words)
    assert not diagnose(quiet(30), orders=orders).words


def test_one_starting_order_alone_says_nothing() -> None:
    found = diagnose(quiet(12), orders=[PairOrder(True)] * 10 + [PairOrder(False)] * 2)
    assert found.spawn_effect is None


def test_an_effect_of_the_first_turn_is_seen() -> None:
    orders = [PairOrder(number % 2 == 0, 0.05 + noise) for number, noise in enumerate(quiet(20, seed=5))]
    found = diagnose(quiet(20), orders=orders)
    assert found.first_turn_effect == pytest.approx(50_000, abs=6_000)
    assert any("First turns differ" in word for word in found.words)


def test_orders_must_fit_the_pairs() -> None:
    with pytest.raises(ValueError, match="2 orders for 3 pairs"):
        diagnose([0.0, 0.1, 0.2], orders=[PairOrder(True)] * 2)
