"""Rules of rollback by itself: few false alarms, no missed harm, and the canary's time between its batch sizes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.deployments.health import (
    MIN_FAILURES,
    SLOW_WINDOWS,
    Outcomes,
    TokenTime,
    expected_ns,
    fails_more,
    slowness,
    stays_slow,
)

TIMES = st.dictionaries(st.integers(1, 64), st.integers(1, 10**9), min_size=1, max_size=5)
COUNTS = st.integers(0, 100)


def test_a_tree_that_fails_what_was_answered_is_found_soon() -> None:
    before = Outcomes(answered=1000)
    assert fails_more(Outcomes(0, 3), before)
    assert fails_more(Outcomes(6, 4), before)
    assert fails_more(Outcomes(100, 15), before)
    assert not fails_more(Outcomes(0, 2), before)
    assert not fails_more(Outcomes(997, 3), before)


def test_a_tree_before_that_is_hardly_known_excuses_no_more_than_half() -> None:
    for before in (Outcomes(), Outcomes(3, 0)):
        assert fails_more(Outcomes(0, 40), before)
        assert not fails_more(Outcomes(20, 20), before)


def test_what_failed_before_as_well_is_no_ones_fault() -> None:
    assert not fails_more(Outcomes(50, 950), Outcomes(50, 950))
    assert fails_more(Outcomes(0, 1000), Outcomes(500, 500))


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(1, 50))
def test_more_failures_are_never_better_and_more_answers_never_worse(
    answered: int, failed: int, before_answered: int, before_failed: int, more: int
) -> None:
    before = Outcomes(before_answered, before_failed)
    if fails_more(Outcomes(answered, failed), before):
        assert failed >= MIN_FAILURES
        assert fails_more(Outcomes(answered, failed + more), before)
    else:
        assert not fails_more(Outcomes(answered + more, failed), before)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3])
def test_equal_trees_are_not_told_apart(rate: float) -> None:
    """150 deployments, five looks each: at most one in a thousand may be wrong, so two are a wonder."""
    chance = random.Random(7)

    def sample(count: int) -> Outcomes:
        failed = sum(chance.random() < rate for _ in range(count))
        return Outcomes(count - failed, failed)

    wrong = 0
    for _ in range(150):
        before = sample(chance.choice((0, 5, 60, 200)))
        wrong += any(fails_more(sample(60), before) for _ in range(5))
    assert wrong <= 1


@given(TIMES, st.floats(0, 200), st.floats(0, 200))
def test_expected_time_is_the_canarys_and_lies_between(
    times: dict[int, int], batch: float, other: float
) -> None:
    for size, ns in times.items():
        assert expected_ns(size, times) == pytest.approx(ns)
    found = expected_ns(batch, times)
    below = [ns for size, ns in times.items() if size <= batch]
    if batch <= max(times):
        assert min(times.values()) - 1e-6 <= found <= max(times.values()) * (1 + 1e-9)
    assert found > 0 and (below or found == times[min(times)])
    if all(times[low] <= times[high] for low in times for high in times if low <= high):
        low, high = sorted((batch, other))
        assert expected_ns(low, times) <= expected_ns(high, times) * (1 + 1e-9)


@given(
    TIMES,
    st.lists(st.tuples(st.integers(1, 10**5), st.floats(0, 80)), min_size=1, max_size=4),
    st.floats(0.2, 5),
)
def test_slowness_is_the_factor_by_which_all_nodes_are_slower(
    times: dict[int, int], nodes: list[tuple[int, float]], factor: float
) -> None:
    rows = [
        TokenTime(tokens, round(factor * tokens * expected_ns(batch, times) / 1e6), batch)
        for tokens, batch in nodes
    ]
    found = slowness(rows, times)
    if sum(tokens for tokens, _ in nodes) < 16:
        assert found is None
        return
    rounding = len(rows) * 1e6 / sum(tokens * expected_ns(batch, times) for tokens, batch in nodes)
    assert found == pytest.approx(factor, abs=rounding + 1e-9)


def test_slow_is_every_window_and_enough_of_them() -> None:
    slow = [1.3] * SLOW_WINDOWS
    assert stays_slow(slow, usual=1.0, slower_percent=20)
    assert stays_slow([*slow, None, None], usual=0.4, slower_percent=20)
    assert not stays_slow([*slow, 1.19], usual=1.0, slower_percent=20)
    assert not stays_slow(slow[1:], usual=1.0, slower_percent=20)
    assert not stays_slow(slow, usual=1.1, slower_percent=20)
    assert not stays_slow(slow, usual=1.0, slower_percent=31)
    assert not stays_slow([], usual=1.0, slower_percent=20)
