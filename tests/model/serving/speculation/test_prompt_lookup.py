"""Lookups find the longest of the latest matches and say what followed it, however the answer grew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.serving.speculation.prompt_lookup import LookupProposer

texts = st.lists(st.integers(0, 3), max_size=60)


def by_definition(tokens: list[int], n: int, least: int, most: int, n_places: int) -> list[int]:
    if len(tokens) < least:
        return []
    places = [p for p in range(least, len(tokens)) if tokens[p - least : p] == tokens[-least:]][-n_places:]
    if not places:
        return []

    def length(place: int) -> int:
        return max(k for k in range(least, min(most, place) + 1) if tokens[place - k : place] == tokens[-k:])

    best = max(places, key=lambda place: (length(place), place))
    extended = list(tokens)
    while len(extended) < best + n:
        extended.append(extended[best + len(extended) - len(tokens)])
    return extended[best : best + n]


@given(texts, st.integers(0, 6), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
def test_drafts_equal_the_definition(tokens: list[int], n: int, least: int, more: int, n_places: int) -> None:
    proposer = LookupProposer(least, least + more, n_places)
    assert proposer.propose(tokens, n) == by_definition(tokens, n, least, least + more, n_places)


@given(texts, st.lists(st.integers(0, 60), max_size=8))
def test_growing_by_any_steps_gives_the_same_drafts(tokens: list[int], cuts: list[int]) -> None:
    growing = LookupProposer()
    for cut in sorted(min(cut, len(tokens)) for cut in cuts):
        assert growing.propose(tokens[:cut], 4) == LookupProposer().propose(tokens[:cut], 4)
    assert growing.propose(tokens, 4) == LookupProposer().propose(tokens, 4)


def test_a_loop_goes_on() -> None:
    assert LookupProposer().propose([9, 1, 2, 3, 1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]
    assert LookupProposer().propose([5, 5, 5], 4) == [5, 5, 5, 5]


def test_the_longest_match_wins_over_a_later_shorter_one() -> None:
    tokens = [1, 2, 3, 4, 70, 8, 3, 4, 80, 1, 2, 3, 4]
    assert LookupProposer().propose(tokens, 1) == [70]
    assert LookupProposer(most_match=2).propose(tokens, 1) == [80]
    assert LookupProposer(most_places=1).propose(tokens, 1) == [80]


def test_nothing_is_proposed_where_nothing_matches_or_nothing_is_wanted() -> None:
    assert LookupProposer().propose([1, 2, 3, 4], 4) == []
    assert LookupProposer().propose([], 4) == []
    assert LookupProposer().propose([1], 4) == []
    assert LookupProposer().propose([1, 2, 1, 2], 0) == []


def test_another_answer_is_noticed() -> None:
    proposer = LookupProposer()
    proposer.propose([1, 2, 3], 1)
    with pytest.raises(ValueError, match="another"):
        proposer.propose([1, 2], 1)


@pytest.mark.parametrize(
    "wrong", [{"least_match": 0}, {"least_match": 5, "most_match": 4}, {"most_places": 0}]
)
def test_impossible_lookups_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="lookup"):
        LookupProposer(**wrong)
