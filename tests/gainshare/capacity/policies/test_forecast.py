"""Our policy: what it wants, when it keeps nodes, and what it says."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.capacity.policies.backlog import LATE_TARGET, Backlog, learned_margin
from gainshare.capacity.policies.forecast import IDLE_S, forecast
from gainshare.capacity.policies.mix import (
    Needs,
    cheapest,
    cost,
    expected_p99_s,
    expected_slow_share,
    suffices,
    usable_slots,
)
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective
from gainshare.capacity.policies.waiting import LATE_SHARE
from tests.gainshare.capacity.policies.policy_worlds import NODE, SPOT, ask

STEADY = 6 * 15  # steps of ten seconds


def steady(rate: float) -> tuple[int, ...]:
    """Arrivals of that many requests a second, without any chance."""
    return tuple(math.floor((k + 1) * rate * 10) - math.floor(k * rate * 10) for k in range(STEADY))


def wants(
    load: Load,
    fleets: Mapping[str, Fleet],
    *classes: ClassFacts,
    at_s: float = 0.0,
    objective: Objective | None = None,
    state: Mapping[str, object] | None = None,
) -> tuple[dict[str, int], str]:
    found = forecast(
        at_s, load, fleets, classes or (NODE,), objective or Objective(), state or {"margin": 0.0}
    )
    return dict(found.nodes), found.reason


def test_a_reason_says_what_comes_when_and_how_long_requests_would_wait() -> None:
    spot = dataclasses.replace(SPOT, is_preemptible=False, requests_per_s=2.0, max_nodes=40)
    nodes, reason = wants(Load(24, 0, steady(14)), {"spot-a10": Fleet(7)}, spot)
    assert nodes["spot-a10"] > 7
    assert reason == (
        f"+{nodes['spot-a10'] - 7} spot-a10: 14 requests/s forecast in 2 min, p99 would be hours"
    )
    nodes, reason = wants(Load(24, 0, steady(14)), {"spot-a10": Fleet(8)}, spot, objective=Objective(1.2))
    assert reason == "+1 spot-a10: 14 requests/s forecast in 2 min, p99 would be 2.3 s"


@settings(deadline=None)
@given(
    running=st.integers(0, 48),
    rate=st.floats(0, 1),
    is_measured=st.booleans(),
    share=st.none() | st.floats(0, 1),
    spare_s=st.floats(0, 10_000),
)
def test_a_busy_node_is_never_given_up_because_nothing_waits(
    running: int, rate: float, is_measured: bool, share: float | None, spare_s: float
) -> None:
    """The backlog reads 0 and few requests come, but all their answers are still in progress."""
    one = NODE if is_measured else dataclasses.replace(NODE, requests_per_s=0.0)
    load = Load(running, 0, steady(rate), late_share=share)
    nodes, _ = wants(load, {"h100": Fleet(12)}, one, at_s=10_000, state={"spare_at": 10_000 - spare_s})
    assert nodes["h100"] * one.slots >= running


def test_without_requests_the_last_node_ends_after_a_while_and_comes_back_for_the_first_one() -> None:
    state: Mapping[str, object] = {}
    ready = 1
    for at_s in range(0, int(IDLE_S) + 20, 10):
        found = ask(forecast, at_s, ready=ready, state=state, arrivals=[0] * 90)
        state, ready = json.loads(json.dumps(found.state)), found.nodes["h100"]
        assert ready == (1 if at_s < IDLE_S else 0)
    assert found.reason == "no change: no request for 15 min"
    woken = ask(forecast, 2_000, waiting=1, ready=0, state=state, arrivals=[0] * 89 + [1])
    assert woken.nodes == {"h100": 1}
    assert woken.reason.startswith("+1 h100: ")


def test_a_backlog_adds_no_more_while_the_nodes_for_it_start() -> None:
    """A thousand wait in front of two nodes. What was ordered counts: 30 calls later no more nodes are wanted."""
    state: Mapping[str, object] = {"margin": 0.0}
    starting, orders = 0, []
    for tick in range(12):
        load = Load(8, 100 + 5 * tick, steady(0.8))
        found = forecast(tick * 10.0, load, {"h100": Fleet(2, starting)}, [NODE], Objective(), state)
        more = found.nodes["h100"] - 2 - starting
        assert more >= 0
        orders.append(more)
        starting += more
        state = found.state
    assert orders[0] >= 1
    assert sum(orders[1:]) <= 2
    assert starting <= 4  # 0.8 a second call for 3 nodes, 150 requests in 3 min for 0.8 a second more


def test_an_overload_at_each_call_doubles_what_is_there_at_most() -> None:
    found = forecast(
        0.0, Load(8, 100_000, steady(0.1)), {"h100": Fleet(2)}, [NODE], Objective(), {"margin": 0.0}
    )
    assert found.nodes["h100"] <= 2 * 2 + 1


class TestMix:
    def test_the_cheaper_class_for_each_request_is_chosen(self) -> None:
        cheap = dataclasses.replace(SPOT, is_preemptible=False)
        assert cheapest([NODE, cheap], Needs(1.0, 1.0, Objective())) == {"h100": 0, "spot-a10": 5}

    @settings(deadline=None, max_examples=60)
    @given(
        rate=st.floats(0, 6),
        dispersion=st.floats(1, 8),
        used=st.integers(0, 20),
        prices=st.tuples(*[st.integers(1, 9)] * 3),
        speeds=st.tuples(*[st.sampled_from([0.3, 0.5, 1.1])] * 3),
        most=st.tuples(*[st.integers(0, 5)] * 3),
        least=st.tuples(*[st.integers(0, 2)] * 3),
        preemptible=st.tuples(*[st.booleans()] * 3),
    )
    def test_no_mix_that_suffices_is_cheaper(
        self,
        rate: float,
        dispersion: float,
        used: int,
        prices: tuple[int, ...],
        speeds: tuple[float, ...],
        most: tuple[int, ...],
        least: tuple[int, ...],
        preemptible: tuple[bool, ...],
    ) -> None:
        classes = [
            dataclasses.replace(
                NODE,
                name=str(k),
                price=prices[k],
                requests_per_s=speeds[k],
                max_nodes=most[k],
                is_preemptible=preemptible[k],
            )
            for k in range(3)
        ]
        needs = Needs(rate, dispersion, Objective(), used)
        floor = {str(k): min(least[k], most[k]) for k in range(3)}
        found = cheapest(classes, needs, least=floor)
        every = (
            dict(zip("012", counts, strict=True))
            for counts in itertools.product(*(range(floor[str(k)], most[k] + 1) for k in range(3)))
        )
        enough = [nodes for nodes in every if suffices(nodes, classes, needs)]
        if enough:
            assert suffices(found, classes, needs)
            assert cost(found, classes) == min(cost(nodes, classes) for nodes in enough)
        else:
            assert found == {str(k): most[k] for k in range(3)}

    def test_a_class_whose_tokens_take_longer_than_promised_is_not_used(self) -> None:
        slow = dataclasses.replace(SPOT, token_alone_s=0.15, token_full_s=0.3, is_preemptible=False)
        assert usable_slots(slow, Objective()) == 0
        assert cheapest([NODE, slow], Needs(1.0, 1.0, Objective()))["spot-a10"] == 0

    @pytest.mark.parametrize(("full", "slots"), [(0.05, 4), (0.1, 4), (0.14, 3), (0.26, 2), (0.5, 1)])
    def test_slots_that_would_make_tokens_too_slow_do_not_count(self, full: float, slots: int) -> None:
        """From 20 ms alone: 100 ms are reached at the share 80 / (full - 20) of the three other slots."""
        assert usable_slots(dataclasses.replace(NODE, token_full_s=full), Objective()) == slots

    def test_a_preemptible_node_that_cannot_be_replaced_within_its_notice_has_a_spare(self) -> None:
        slow = dataclasses.replace(SPOT, cold_start_s=300.0)
        quick = dataclasses.replace(SPOT, cold_start_s=60.0)
        needs = Needs(1.0, 1.0, Objective())
        assert cheapest([slow], needs)["spot-a10"] == cheapest([quick], needs)["spot-a10"] + 1


def test_a_node_with_a_notice_is_replaced_before_it_is_gone() -> None:
    load = Load(6, 0, steady(1.0))
    calm, _ = wants(load, {"spot-a10": Fleet(5)}, SPOT)
    assert calm == {"spot-a10": 5}
    nodes, reason = wants(load, {"spot-a10": Fleet(5, 0, 1)}, SPOT)
    assert nodes == {"spot-a10": 6}  # the one that leaves counts until it is gone
    assert reason.startswith("+1 spot-a10: ")


class TestHysteresis:
    def run(self, seconds: float, load: Load, facts: ClassFacts = NODE) -> list[int]:
        state: Mapping[str, object] = {"margin": 0.0}
        wanted = []
        for at_s in range(0, int(seconds), 10):
            found = forecast(at_s, load, {"h100": Fleet(6)}, [facts], Objective(), state)
            state = json.loads(json.dumps(found.state))
            wanted.append(found.nodes["h100"])
        return wanted

    def test_nodes_stay_until_they_have_cost_as_much_as_a_new_start(self) -> None:
        wanted = self.run(200, Load(2, 0, steady(0.5)))
        assert wanted[:12] == [6] * 12  # a cold start takes 120 s
        assert wanted[12] < 6

    def test_one_call_that_needs_them_begins_the_time_again(self) -> None:
        quiet, busy = Load(2, 0, steady(0.5)), Load(20, 0, steady(2.4))
        state: Mapping[str, object] = {"margin": 0.0}
        for at_s, load in ((0, quiet), (60, quiet), (110, busy), (120, quiet), (230, quiet)):
            found = forecast(at_s, load, {"h100": Fleet(6)}, [NODE], Objective(), state)
            assert found.nodes["h100"] >= 6, at_s
            state = found.state
        assert "nodes are kept for 2 min" in found.reason

    def test_a_cheaper_class_is_started_before_the_dearer_one_ends(self) -> None:
        cheap = dataclasses.replace(SPOT, is_preemptible=False)
        load = Load(4, 0, steady(1.0))
        nodes, reason = wants(load, {"h100": Fleet(4), "spot-a10": Fleet(0)}, NODE, cheap)
        assert nodes["h100"] == 4
        assert nodes["spot-a10"] > 0
        assert reason.endswith("a cheaper mix is started")
        while_starting, _ = wants(load, {"h100": Fleet(4), "spot-a10": Fleet(0, 4)}, NODE, cheap)
        assert while_starting["h100"] == 4

    def test_an_exchange_that_does_not_pay_for_its_start_is_left(self) -> None:
        a_little = dataclasses.replace(NODE, name="other", price=1_950_000, cold_start_s=600.0)
        load = Load(4, 0, steady(1.0))
        nodes, _ = wants(load, {"h100": Fleet(4), "other": Fleet(0)}, NODE, a_little)
        assert nodes == {"h100": 4, "other": 0}
        free = dataclasses.replace(a_little, cold_start_s=0.0)
        assert wants(load, {"h100": Fleet(4), "other": Fleet(0)}, NODE, free)[0] == {"h100": 4, "other": 4}


class TestMargin:
    def learn(self, share: float | None, load: Load, queue: Backlog, hours: int) -> float:
        margin = 0.3
        for _ in range(hours * 360):
            margin = learned_margin(
                margin, 10.0, dataclasses.replace(load, late_share=share), queue, [NODE], Objective(), 1.0
            )
        return margin

    def test_it_grows_while_too_many_are_late_and_shrinks_while_too_few_are(self) -> None:
        load, queue = Load(4, 0, steady(1.0)), Backlog(4, 0, 1.0)
        assert self.learn(0.02, load, queue, 6) > 0.35
        assert self.learn(0.0, load, queue, 6) < 0.25
        assert self.learn(LATE_TARGET, load, queue, 6) == pytest.approx(0.3)

    def test_unmeasured_it_follows_the_wait_in_front(self) -> None:
        load = Load(4, 0, steady(1.0))
        assert self.learn(None, load, Backlog(4, 50, 1.0), 1) > 0.5
        assert self.learn(None, load, Backlog(4, 1, 1.0), 1) < 0.3


def test_the_time_of_day_is_learned() -> None:
    """Two days with a rise from 0.4 to 1.6 a second at 8:00. On the third, more is wanted at 7:59 than at 6:30."""
    state: Mapping[str, object] = {}

    def rate(at_s: float) -> float:
        return 1.6 if 8 * 3600 <= at_s % 86_400 < 20 * 3600 else 0.4

    def call(at_s: float) -> int:
        nonlocal state
        load = Load(2, 0, tuple([round(rate(at_s) * 10)] * STEADY), late_share=0.008)
        found = forecast(at_s, load, {"h100": Fleet(1)}, [NODE], Objective(), state)
        state = json.loads(json.dumps(found.state))
        return found.nodes["h100"]

    for minute in range(2 * 24 * 60):
        call(minute * 60.0)
    third = 2 * 86_400
    before = [call(third + minute * 60.0) for minute in range(8 * 60)]
    assert before[-1] > before[6 * 60 + 30]


def test_prompts_of_unlike_lengths_need_more_nodes_than_like_ones() -> None:
    even = dataclasses.replace(NODE, read_s=1.5, read_spread=1.0)
    uneven = dataclasses.replace(even, read_spread=10.0)
    few, more = (cheapest([facts], Needs(2.0, 1.0, Objective(5.0)))[NODE.name] for facts in (even, uneven))
    assert few < more
    assert (
        cheapest([NODE], Needs(2.0, 1.0, Objective(5.0)))[NODE.name] <= few
    )  # what is not known adds nothing


def test_nodes_are_added_while_too_many_answers_would_wait_for_the_prompts_of_others() -> None:
    one = dataclasses.replace(NODE, read_s=1.0, requests_per_s=0.9)
    held = dataclasses.replace(one, held_up_share=0.2)
    objective = Objective(60.0)
    needs = Needs(2.0, 1.0, objective)
    nodes = {facts.held_up_share: cheapest([facts], needs)[NODE.name] for facts in (one, held)}
    assert nodes[0.2] > nodes[0.0]
    assert expected_slow_share({NODE.name: nodes[0.2]}, [held], needs) <= LATE_SHARE
    assert expected_slow_share({NODE.name: nodes[0.2] - 1}, [held], needs) > LATE_SHARE
    found, reason = wants(Load(2, 0, steady(2)), {NODE.name: Fleet(4)}, held, objective=objective)
    assert found[NODE.name] > 4
    assert reason.endswith(
        "2 requests/s forecast in 2 min, 3.6 % of the answers would wait for others' prompts"
    )


def test_a_mix_with_a_class_that_was_not_measured_waits_for_slots_alone() -> None:
    measured = dataclasses.replace(NODE, read_s=1.0, read_spread=10.0, held_up_share=0.5)
    needs = Needs(1.0, 1.0, Objective(5.0))
    mix = {NODE.name: 2, SPOT.name: 2}
    assert expected_slow_share(mix, [measured, SPOT], needs) == 0.0
    assert expected_p99_s(mix, [measured, SPOT], needs) == expected_p99_s(mix, [NODE, SPOT], needs)
