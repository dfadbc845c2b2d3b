"""The rule of schema 2: control pairs expose a candidate that slows its partner."""

import math

import pytest

from benchmarks.statistics.controls_2 import BaseTime, control_check


def times(beside_candidate: float, pairs: int, every: int = 6, drift: float = 0.0) -> list[BaseTime]:
    return [
        BaseTime(
            "case", number % every == 2, drift * number + (0.0 if number % every == 2 else beside_candidate)
        )
        for number in range(pairs)
    ]


def test_a_partner_slowed_down_is_suspicious() -> None:
    result = control_check(times(math.log(1.5), 7))
    assert result.comparisons == 1
    assert result.slowdown_log == pytest.approx(math.log(1.5))
    assert result.is_suspicious


def test_an_honest_candidate_is_not() -> None:
    assert not control_check(times(0.0, 35)).is_suspicious
    assert not control_check(times(0.04, 35)).is_suspicious


def test_a_partner_that_is_faster_is_not_suspicious() -> None:
    assert not control_check(times(-0.5, 35)).is_suspicious


def test_more_controls_see_smaller_slow_downs() -> None:
    assert not control_check(times(0.15, 7)).is_suspicious
    assert control_check(times(0.15, 35)).is_suspicious


def test_slow_drift_of_the_machine_cancels() -> None:
    result = control_check(times(0.0, 36, drift=0.02))  # twice as slow at the end
    assert abs(result.slowdown_log) < 0.001
    assert not result.is_suspicious


def test_only_pairs_of_the_same_case_are_compared() -> None:
    mixed = [BaseTime("long", False, 5.0), BaseTime("short", True, 1.0), BaseTime("long", False, 5.0)]
    result = control_check(mixed)
    assert (result.comparisons, result.is_suspicious) == (0, False)
    assert control_check([*mixed, BaseTime("short", False, 2.0)]).is_suspicious


def test_noisy_controls_raise_the_threshold() -> None:
    noisy = [
        BaseTime("case", number % 2 == 1, 0.0 if number % 2 == 0 else (-0.6 if number % 4 == 1 else 0.3))
        for number in range(16)
    ]
    result = control_check(noisy)
    assert result.threshold_log > 0.3
    assert not result.is_suspicious
