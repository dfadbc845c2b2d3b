"""When a runner is no longer believed, and when it is again: plain figures in, words out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.judging.verdicts import VerdictKind
from benchmarks.statistics.runner_health import (
    LIMITS,
    NoiseFigures,
    failed_too_often,
    fault_of,
    may_come_back,
    noise_floor_log_ppm,
    noise_limit_log_ppm,
)

QUIET = NoiseFigures(VerdictKind.NO_GAIN, pairs=12, noise_log_ppm=15_000, median_log_ppm=-300)
FLOOR = noise_floor_log_ppm(9_951)


def figures(**changes: object) -> NoiseFigures:
    values = {name: getattr(QUIET, name) for name in NoiseFigures.__slots__}
    return NoiseFigures(**{**values, **changes})  # type: ignore[arg-type]


def test_an_ordinary_run_has_no_fault() -> None:
    assert fault_of(QUIET, limit_log_ppm=None) == ""
    assert fault_of(QUIET, limit_log_ppm=30_000) == ""


@pytest.mark.parametrize("kind", [VerdictKind.GAIN, VerdictKind.REGRESSION])
def test_a_tree_that_beats_itself_is_a_fault_and_says_by_how_much(kind: VerdictKind) -> None:
    fault = fault_of(figures(verdict=kind, median_log_ppm=51_000), limit_log_ppm=None)
    assert kind.value in fault and "5.2 %" in fault and "12 pairs" in fault


@pytest.mark.parametrize("kind", [VerdictKind.SUSPICIOUS, VerdictKind.WRONG_OUTPUT, VerdictKind.TIMEOUT])
def test_any_other_end_of_a_tree_against_itself_is_a_fault(kind: VerdictKind) -> None:
    assert kind.value in fault_of(figures(verdict=kind), limit_log_ppm=None)


def test_noise_is_compared_with_the_limit_and_equal_is_still_good() -> None:
    assert fault_of(figures(noise_log_ppm=30_000), limit_log_ppm=30_000) == ""
    fault = fault_of(figures(noise_log_ppm=45_600), limit_log_ppm=30_000)
    assert "4.5 %" in fault and "3.0 %" in fault


def test_a_place_that_slows_its_neighbour_is_a_fault_once_enough_control_pairs_say_so() -> None:
    slow = {"slowdown_log_ppm": 200_000, "slowdown_limit_log_ppm": 140_000}
    assert fault_of(figures(**slow, comparisons=2), limit_log_ppm=None) == ""
    assert "slower" in fault_of(figures(**slow, comparisons=3), limit_log_ppm=None)
    fine = {"slowdown_log_ppm": 100_000, "slowdown_limit_log_ppm": 140_000}
    assert fault_of(figures(**fine, comparisons=9), limit_log_ppm=None) == ""


def test_a_new_runner_has_no_limit_until_its_history_is_long_enough() -> None:
    few = [15_000] * (LIMITS.least_history - 1)
    assert noise_limit_log_ppm(few, floor_log_ppm=FLOOR) is None
    assert noise_limit_log_ppm([*few, 15_000], floor_log_ppm=FLOOR) == 45_000


def test_the_limit_never_falls_below_the_suites_floor() -> None:
    assert noise_limit_log_ppm([10] * 9, floor_log_ppm=FLOOR) == FLOOR == 29_853


def test_only_the_newest_part_of_the_history_counts() -> None:
    old = [90_000] * 30
    assert noise_limit_log_ppm([*old, *[20_000] * LIMITS.history], floor_log_ppm=FLOOR) == 60_000


@given(st.lists(st.integers(0, 10**6), min_size=5, max_size=40), st.integers(0, 10**6))
def test_one_wild_run_in_the_history_hardly_moves_the_limit(history: list[int], wild: int) -> None:
    """The median of the history is between its own extremes, whatever one run in it was."""
    limit = noise_limit_log_ppm([*history, wild], floor_log_ppm=0)
    assert limit is not None
    recent = sorted([*history, wild][-LIMITS.history :])
    assert LIMITS.noise_factor * recent[1] <= limit <= LIMITS.noise_factor * recent[-2]


def test_failures_count_by_run_so_that_one_patch_cannot_put_a_runner_out_of_work() -> None:
    assert not failed_too_often(["a"] * 9)
    assert not failed_too_often(["a", "b", "a", "b"])
    assert failed_too_often(["a", "b", "a", "c"])


def test_a_runner_comes_back_after_good_runs_in_a_row_only() -> None:
    assert not may_come_back([])
    assert not may_come_back([True, True])
    assert not may_come_back([True, True, False, True, True])
    assert may_come_back([False, True, True, True])
