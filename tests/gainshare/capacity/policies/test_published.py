"""KPA, HPA with KEDA and Ray Serve against their published rules, worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from gainshare.capacity.policies.fixed import fixed_at
from gainshare.capacity.policies.hpa import hpa
from gainshare.capacity.policies.kpa import kpa
from gainshare.capacity.policies.ray import ray
from tests.gainshare.capacity.policies.policy_worlds import NODE, ask, follow

WIDE = dataclasses.replace(NODE, max_nodes=2_000)


class TestKpa:
    """Target 0.7 x 4 slots = 2.8 requests at once on a node."""

    @pytest.mark.parametrize(
        ("at_once", "nodes"), [(1, 1), (2, 1), (3, 2), (5, 2), (6, 3), (28, 10), (29, 11)]
    )
    def test_the_stable_window_divided_by_the_target_is_rounded_up(self, at_once: int, nodes: int) -> None:
        """ceil(concurrency / 2.8), from as many ready nodes, so that there is no panic."""
        assert follow(kpa, lambda _: at_once, until_s=120, tick_s=2, ready=nodes) == [(0.0, nodes)]

    def test_the_stable_window_is_the_mean_of_sixty_seconds(self) -> None:
        """From 10 to 13 requests at once: the mean passes 11.2 = 4 x 2.8 when more than 0.4 of the window is new."""
        changes = follow(kpa, lambda at: 13 if at >= 60 else 10, until_s=130, tick_s=2, ready=4)
        # Samples of the window at t: those in (t - 60, t], 30 of them. k new ones: (10 (30 - k) + 13 k) / 30 > 11.2.
        k = math.floor(1.2 * 30 / 3) + 1
        assert changes == [(0.0, 4), (60.0 + 2 * (k - 1), 5)]

    def test_panic_acts_on_six_seconds_and_never_scales_down_within_sixty(self) -> None:
        """12 at once on 2 nodes: ceil(12 / 2.8) = 5 >= 2 x 2 in the panic window once its mean is above 11.2."""
        changes = follow(kpa, lambda at: 12 if 60 <= at < 80 else 5, until_s=220, tick_s=2, ready=2)
        # The window (t - 6, t] has three samples: 5 5 12 -> 7.3 -> 3 nodes are no panic; 5 12 12 -> 9.7 -> 4 are.
        assert changes[1] == (62.0, 4)
        assert changes[2] == (64.0, 5)
        # 62 was the last time at twice the ready nodes. Then the stable window decides: 7 samples of 12, 23 of 5 -> 6.6.
        assert changes[3] == (62.0 + 60.0 + 2.0, 3)
        assert changes[4:] == [(134.0, 2)]

    def test_panic_begins_at_twice_the_ready_nodes(self) -> None:
        calm = ask(kpa, 0, at_once=8, ready=2)  # ceil(8 / 2.8) = 3 < 4
        panic = ask(kpa, 0, at_once=9, ready=2)  # ceil(9 / 2.8) = 4 >= 4
        assert "panic_at" not in calm.state
        assert panic.state["panic_at"] == 0
        assert "in panic" in panic.reason

    def test_a_step_goes_down_to_the_half_at_most(self) -> None:
        assert ask(kpa, 0, at_once=1, ready=9).nodes == {"h100": 4}  # floor(9 / 2)

    def test_a_step_goes_up_a_thousandfold_at_most(self) -> None:
        assert ask(kpa, 0, at_once=2_800 + 28, ready=1, facts=WIDE).nodes == {"h100": 1_000}

    def test_to_zero_after_an_empty_window_and_the_grace_period(self) -> None:
        changes = follow(kpa, lambda at: 2 if at < 10 else 0, until_s=200, tick_s=2, ready=1)
        # The last busy sample is at 8 and out of the window at 68; 30 s of grace follow.
        assert changes == [(0.0, 1), (98.0, 0)]


class TestHpa:
    """Target 0.7 x 4 slots = 2.8 requests on a node."""

    @pytest.mark.parametrize(
        ("at_once", "ready", "nodes"),
        [
            (28, 10, 10),
            (30, 10, 10),
            (31, 10, 12),
            (26, 10, 10),
            (34, 10, 13),
            (57, 10, 20),
            (90, 10, 20),
            (20, 1, 5),
        ],
    )
    def test_the_ratio_decides_with_a_tolerance_and_a_limit(
        self, at_once: int, ready: int, nodes: int
    ) -> None:
        """ceil(nodes x ratio); nothing within 10 %; at most twice as many or four more within 15 s."""
        assert ask(hpa, 0, at_once=at_once, ready=ready).nodes == {"h100": nodes}

    def test_the_limit_counts_the_change_of_fifteen_seconds(self) -> None:
        changes = follow(hpa, lambda _: 56, until_s=60, tick_s=15, ready=1)
        assert changes == [(0.0, 1), (0.0, 5), (15.0, 10), (30.0, 20)]

    def test_down_to_the_largest_recommendation_of_five_minutes(self) -> None:
        changes = follow(hpa, lambda at: 28 if at < 60 else 14, until_s=420, tick_s=15, ready=10)
        # The last recommendation of 10 is at 45; it leaves the window (t - 300, t] at 345.
        assert changes == [(0.0, 10), (345.0, 5)]

    def test_keda_goes_from_zero_to_one_and_back_after_the_cool_down(self) -> None:
        assert ask(hpa, 0, waiting=40, ready=0).nodes == {"h100": 1}
        assert ask(hpa, 0, ready=0).nodes == {"h100": 0}
        changes = follow(hpa, lambda at: 1 if at < 30 else 0, until_s=420, tick_s=15, ready=1)
        assert changes == [(0.0, 1), (315.0, 0)]  # the last request is seen at 15


class TestRay:
    """Target 2 ongoing requests on a node."""

    def test_up_after_thirty_seconds_of_agreement(self) -> None:
        assert follow(ray, lambda _: 7, until_s=100, tick_s=5, ready=2) == [
            (0.0, 2),
            (35.0, 4),
        ]  # ceil(7 / 2)

    def test_down_after_ten_minutes_of_agreement(self) -> None:
        assert follow(ray, lambda _: 3, until_s=700, tick_s=5, ready=4) == [(0.0, 4), (605.0, 2)]

    def test_a_disagreement_begins_the_delay_again(self) -> None:
        """A minute of 8 requests in between, for which 4 nodes are right, at 300 s of the 600 s."""
        changes = follow(ray, lambda at: 8 if 300 <= at < 360 else 3, until_s=1_200, tick_s=5, ready=4)
        # The mean of six samples is at most 6, so that 3 nodes would do, from (8 8 8 3 3 3) at 370 on.
        assert changes == [(0.0, 4), (370.0 + 605.0, 2)]

    def test_ongoing_requests_are_averaged_over_thirty_seconds(self) -> None:
        """A peak of 5 s is a sixth of the window: 2 x 5/6 + 14/6 = 4 requests, 2 nodes."""
        wanted = ask(ray, 0, at_once=2, ready=1)
        state = wanted.state
        for at_s in (5, 10, 15, 20):
            state = ask(ray, at_s, at_once=2, ready=1, state=state).state
        assert "4 requests at once in 30 s" in ask(ray, 25, at_once=14, ready=1, state=state).reason

    def test_without_a_node_one_starts_at_once(self) -> None:
        assert ask(ray, 0, waiting=9, ready=0).nodes == {"h100": 1}
        assert ask(ray, 0, waiting=9, ready=0, starting=1).nodes == {"h100": 1}
        assert ask(ray, 0, ready=0).nodes == {"h100": 0}

    def test_to_zero_only_from_one(self) -> None:
        changes = follow(ray, lambda _: 0, until_s=1_300, tick_s=5, ready=3)
        assert [nodes for _, nodes in changes] == [3, 1, 0]


def test_fixed_stays() -> None:
    assert ask(fixed_at(3), 0, at_once=400, waiting=900, ready=1).nodes == {"h100": 3}
    assert ask(fixed_at(3), 0, ready=5).nodes == {"h100": 3}
