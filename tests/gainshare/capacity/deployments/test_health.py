"""The rule of rollback by itself for requests that fail: few false alarms, and no missed harm."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.deployments.health import (
    MIN_FAILURES,
    Outcomes,
    fails_more,
)

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
