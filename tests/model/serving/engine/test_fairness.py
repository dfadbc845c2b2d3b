"""Owners' turns: served tokens decide, pauses save nothing up, and settled counters are forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model.serving.engine.fairness import VirtualTokenCounter


def test_who_was_served_less_is_ahead() -> None:
    turns = VirtualTokenCounter()
    for owner in ("a", "b"):
        turns.entered(owner)
    turns.charge("a", 10)
    turns.charge("b", 3)
    assert turns.served("b") < turns.served("a")


def test_a_newcomer_starts_level_with_the_least_served() -> None:
    turns = VirtualTokenCounter()
    turns.entered("a")
    turns.charge("a", 50)
    turns.entered("b")
    turns.charge("b", 10)
    turns.entered("new")
    assert turns.served("new") == 50


def test_a_pause_saves_no_turns_up_and_pays_no_debt_off() -> None:
    turns = VirtualTokenCounter()
    for owner in ("pausing", "heavy", "steady"):
        turns.entered(owner)
    turns.charge("heavy", 100)
    turns.charge("pausing", 5)
    turns.charge("steady", 20)
    turns.left("pausing")
    turns.left("heavy")
    turns.charge("steady", 20)
    turns.entered("pausing")
    assert turns.served("pausing") == 40
    turns.entered("heavy")
    assert turns.served("heavy") == 100


def test_an_owner_is_active_until_its_last_sequence_has_left() -> None:
    turns = VirtualTokenCounter()
    turns.entered("other")
    turns.charge("other", 7)
    turns.entered("a")
    turns.entered("a")
    turns.left("a")
    turns.charge("other", 7)
    turns.entered("a")
    assert turns.served("a") == 7  # it never paused


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=60))
def test_with_nobody_left_nothing_is_remembered(visits: list[tuple[str, int]]) -> None:
    turns = VirtualTokenCounter()
    for owner, n_tokens in visits:
        turns.entered(owner)
        turns.charge(owner, n_tokens)
    for owner, _ in visits:
        turns.left(owner)
    assert turns._served == {} == turns._active
