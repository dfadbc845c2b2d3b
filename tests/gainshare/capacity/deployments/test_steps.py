"""The next step of a handover, for every kind of place."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.deployments.steps import Move, Place, Step, next_step

PLACES = st.lists(
    st.builds(
        Place,
        node=st.uuids(),
        can_follow=st.booleans(),
        is_berth_free=st.booleans(),
        has_successor=st.booleans(),
        is_successor_ready=st.booleans(),
    ).map(lambda place: replace(place, has_successor=place.has_successor or place.is_successor_ready)),
    max_size=6,
)


def step(*places: Place, **more: Any) -> Step:
    usual: dict[str, Any] = {
        "n_ready": 0,
        "is_first": False,
        "is_wanted": True,
        "worst_failures": 0,
        "waited_s": 1.0,
        "limit_s": 60.0,
    }
    return next_step(places, **{**usual, **more})


def a_place(**more: Any) -> Place:
    return Place(node=uuid4(), **more)


def test_each_ready_node_gets_one_successor() -> None:
    first, second = a_place(), a_place(has_successor=True, is_berth_free=False)
    assert step(first, second) == Step(Move.WAIT, order=(first.node,))


def test_a_berth_that_is_not_free_yet_is_waited_for() -> None:
    assert step(a_place(is_berth_free=False)) == Step(Move.WAIT)


def test_it_switches_when_every_successor_that_can_be_is_ready() -> None:
    ready = a_place(is_berth_free=False, has_successor=True, is_successor_ready=True)
    assert step(ready, n_ready=1).move == Move.SWITCH
    assert step(ready, a_place(can_follow=False), n_ready=1).move == Move.SWITCH
    assert step(ready, a_place(), n_ready=1).move == Move.WAIT
    assert step(a_place(can_follow=False)).move == Move.WAIT  # its host may be heard again


def test_with_nothing_to_hand_over_it_switches_at_once_but_a_first_one_shows_that_it_starts() -> None:
    assert step().move == Move.SWITCH
    assert step(is_first=True).move == Move.WAIT
    assert step(is_first=True, n_ready=1).move == Move.SWITCH
    assert step(is_first=True, is_wanted=False).move == Move.SWITCH


def test_it_gives_up_after_failures_and_after_the_limit() -> None:
    assert step(a_place(), worst_failures=1).move == Move.WAIT
    assert step(a_place(), worst_failures=2).move == Move.GIVE_UP
    late = step(a_place(has_successor=True), waited_s=61)
    assert late.move == Move.GIVE_UP and "0 of 1 nodes" in late.why


@given(PLACES, st.integers(0, 3), st.booleans(), st.booleans(), st.integers(0, 3), st.floats(0, 120))
def test_it_never_switches_past_a_serving_node_that_could_have_a_successor(
    places: list[Place], n_ready: int, is_first: bool, is_wanted: bool, failures: int, waited_s: float
) -> None:
    found = step(
        *places,
        n_ready=n_ready,
        is_first=is_first,
        is_wanted=is_wanted,
        worst_failures=failures,
        waited_s=waited_s,
    )
    if found.move == Move.SWITCH and places:
        assert any(place.is_successor_ready for place in places)
        assert all(place.is_successor_ready for place in places if place.can_follow)
    ordered: set[UUID] = set(found.order)
    for place in places:
        if place.node in ordered:
            assert place.can_follow and place.is_berth_free and not place.has_successor
    assert found.move == Move.WAIT or not found.order
    assert bool(found.why) == (found.move == Move.GIVE_UP)
