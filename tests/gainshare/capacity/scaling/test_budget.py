"""A day's budget holds whatever a policy wants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.agent.node import DRAIN_GRACE_S, END_GRACE_S
from gainshare.capacity.agent.protocol import HEARTBEAT_S, MOST_DRAIN_S
from gainshare.capacity.policies.observed import Fleet
from gainshare.capacity.scaling.budget import START_S, STOP_S, Day, payable, within_budget

HOUR = 3600.0
WHOLE_DAY_S = 24 * HOUR
PRICES = {"cheap": 3600, "dear": 36_000}  # 1 and 10 micro-credits a second


def kept(
    wanted: dict[str, int], running: dict[str, int], left: int | None, ends: float = WHOLE_DAY_S
) -> dict[str, int]:
    fleets = {name: Fleet(ready=count) for name, count in running.items()}
    return within_budget(wanted, Day(fleets, PRICES, left, ends))[0]


def test_without_a_budget_all_is_started() -> None:
    assert kept({"cheap": 8, "dear": 8}, {}, None) == {"cheap": 8, "dear": 8}


def test_a_node_starts_only_if_the_budget_pays_ten_minutes_of_it() -> None:
    assert START_S == 600
    assert kept({"cheap": 1}, {}, 600) == {"cheap": 1}
    assert kept({"cheap": 1}, {}, 599) == {"cheap": 0}
    assert kept({"cheap": 2}, {"cheap": 1}, 1200) == {"cheap": 2}
    assert kept({"cheap": 2}, {"cheap": 1}, 1199) == {"cheap": 1}


def test_a_running_node_stays_until_the_budget_no_longer_pays_its_end() -> None:
    assert STOP_S == 140
    assert kept({"cheap": 1}, {"cheap": 1}, 140) == {"cheap": 1}
    assert kept({"cheap": 1}, {"cheap": 1}, 139) == {"cheap": 0}


def test_what_is_set_aside_for_a_nodes_end_is_the_longest_that_an_agent_takes() -> None:
    told_s = 2 * HEARTBEAT_S  # the order to drain, and the word that it has ended
    assert MOST_DRAIN_S + DRAIN_GRACE_S + END_GRACE_S + told_s <= STOP_S


def test_the_dearest_class_is_left_out_first_and_the_note_says_so() -> None:
    fleets = {"cheap": Fleet(ready=2), "dear": Fleet(ready=1)}
    counts, note = within_budget({"cheap": 2, "dear": 1}, Day(fleets, PRICES, 300, WHOLE_DAY_S))
    assert counts == {"cheap": 2, "dear": 0}
    assert note == "the day's budget has 300 micro-credits left, without 1 dear"


def test_nothing_starts_in_the_place_of_a_node_that_the_budget_ended() -> None:
    assert kept({"cheap": 3, "dear": 1}, {"cheap": 2, "dear": 1}, 279) == {"cheap": 1, "dear": 0}


def test_the_end_of_the_day_is_near_enough() -> None:
    assert kept({"cheap": 1}, {}, 30, ends=30.0) == {"cheap": 1}
    assert kept({"cheap": 1}, {}, 29, ends=30.0) == {"cheap": 0}


def test_a_spent_budget_ends_all_that_costs_something() -> None:
    free = {**PRICES, "own": 0}
    fleets = {name: Fleet(ready=2) for name in ("cheap", "dear", "own")}
    wanted = {"cheap": 2, "dear": 2, "own": 2}
    counts, note = within_budget(wanted, Day(fleets, free, -5, WHOLE_DAY_S))
    assert counts == {"cheap": 0, "dear": 0, "own": 2}
    assert "0 micro-credits left" in note


@given(
    st.dictionaries(st.sampled_from(["cheap", "dear"]), st.integers(0, 12), min_size=2),
    st.dictionaries(st.sampled_from(["cheap", "dear"]), st.integers(0, 12)),
    st.integers(-100, 100_000),
)
def test_what_is_kept_is_wanted_and_paid(wanted: dict[str, int], running: dict[str, int], left: int) -> None:
    counts = kept(wanted, running, left)
    assert all(0 <= counts[name] <= wanted[name] for name in wanted)
    per_second = counts["cheap"] + 10 * counts["dear"]
    assert per_second * STOP_S <= max(left, 0)
    if any(counts[name] > running.get(name, 0) for name in counts):
        assert per_second * START_S <= left


@pytest.mark.parametrize("left", [0, 139, 600, 5000])
def test_keeping_the_counts_asks_for_no_change(left: int) -> None:
    """The same question again, with the first answer carried out, has the same answer: no flapping."""
    first = kept({"cheap": 4, "dear": 4}, {"cheap": 1, "dear": 1}, left)
    assert kept({"cheap": 4, "dear": 4}, first, left) == first


def paid(
    wanted: dict[str, int], running: dict[str, int], left: int | None, ends: float = WHOLE_DAY_S
) -> dict[str, int] | None:
    fleets = {name: Fleet(ready=count) for name, count in running.items()}
    return payable(wanted, Day(fleets, PRICES, left, ends))


def test_without_a_budget_a_node_may_wait_for_its_successor() -> None:
    assert paid({"cheap": 1, "dear": 0}, {"dear": 1}, None) is None


def test_a_node_waits_for_its_successor_as_long_as_the_budget_pays_both() -> None:
    assert paid({"cheap": 1, "dear": 0}, {"cheap": 1, "dear": 1}, 1540) == {"cheap": 1, "dear": 1}
    assert paid({"cheap": 1, "dear": 0}, {"cheap": 1, "dear": 1}, 1539) == {"cheap": 1, "dear": 0}
    assert paid({"cheap": 1, "dear": 0}, {"dear": 1}, 1539) == {"cheap": 1, "dear": 0}  # with what starts now


def test_a_cheap_node_that_is_not_wanted_ends_before_a_dear_one_that_is() -> None:
    assert paid({"cheap": 0, "dear": 1}, {"cheap": 1, "dear": 1}, 1500) == {"cheap": 0, "dear": 1}


COUNTS = st.fixed_dictionaries({"cheap": st.integers(0, 6), "dear": st.integers(0, 6)})


@given(COUNTS, COUNTS, st.integers(-5, 20_000), st.floats(1, WHOLE_DAY_S))
def test_what_stays_is_paid(wanted: dict[str, int], running: dict[str, int], left: int, ends: float) -> None:
    within = kept(wanted, running, left, ends)
    stays = paid(within, running, left, ends)
    assert stays is not None
    assert all(stays[name] >= within[name] for name in within)
    cost = -(-(stays["cheap"] * 3600 + stays["dear"] * 36_000) * round(min(STOP_S, ends)) // 3600)
    assert cost <= left or stays == dict.fromkeys(stays, 0)
