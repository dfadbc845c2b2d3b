"""The simulated pool: every request ends once, nodes cost what they last, and policies get what they order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.capacity.policies.fixed import fixed_at
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective, Wanted
from gainshare.capacity.policies.registry import POLICIES, TICKS_S
from gainshare.capacity.simulation.pool import NOTICE_S, Setting, simulate
from gainshare.capacity.simulation.rates import Rates
from tests.gainshare.capacity.simulation.simulated_worlds import node_device, poisson, workload

pytestmark = pytest.mark.slow


class Scripted:
    """Wants what a script says from a time on; hears loads and fleets."""

    def __init__(self, *script: tuple[float, int]) -> None:
        self.script = script
        self.heard: list[tuple[float, Load, Fleet]] = []

    def __call__(
        self,
        at_s: float,
        load: Load,
        fleets: Mapping[str, Fleet],
        classes: Sequence[ClassFacts],
        objective: Objective,
        state: Mapping[str, object],
    ) -> Wanted:
        name = classes[0].name
        self.heard.append((at_s, load, fleets[name]))
        nodes = [n for begin, n in self.script if begin <= at_s][-1]
        return Wanted({name: nodes}, f"script: {nodes}", {"calls": len(self.heard)})


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_request_is_answered_once_under_every_policy(name: str) -> None:
    load = poisson(3_000, 1.5)
    setting = Setting([node_device()], Objective(), {"standard": 2})
    found = simulate(load, POLICIES[name], setting, name=name, tick_s=TICKS_S[name])
    assert not np.isnan(found.first_token_s).any()
    assert (found.first_token_s > 0).all()
    assert len(found.token_s) == (load.output_tokens > 1).sum()
    assert (found.token_s >= 0.006 - 1e-6).all()
    assert found.prompt_tokens == load.prompt_tokens.sum()
    assert found.cut == 0


def test_equal_questions_have_equal_answers_and_states_survive_json() -> None:
    load = poisson(2_000, 2.0)
    devices = [node_device(), node_device("spot", price=1_000_000, lifetime_s=600.0)]

    def through_json(*question: object) -> Wanted:
        found = POLICIES["forecast"](*question)  # type: ignore[arg-type]
        return dataclasses.replace(found, state=json.loads(json.dumps(found.state)))

    setting = Setting(devices, Objective(), {"standard": 2}, seed=5)
    first = simulate(load, POLICIES["forecast"], setting, name="a")
    second = simulate(load, through_json, setting, name="a")
    other = simulate(load, POLICIES["forecast"], dataclasses.replace(setting, seed=6), name="a")
    assert first.cost == second.cost
    assert first.decisions == second.decisions
    assert (first.first_token_s == second.first_token_s).all()
    assert (first.first_token_s != other.first_token_s).any()  # other nodes were taken away


def test_a_fixed_fleet_costs_its_nodes_for_the_whole_time() -> None:
    load = poisson(500, 1.0)
    found = simulate(
        load, fixed_at(3), Setting([node_device()], Objective(), {"standard": 3}), name="fixed", tick_s=600
    )
    assert found.node_hours["standard"] == pytest.approx(3 * load.end_s / 3600, rel=0.02)
    assert found.cost == pytest.approx(found.node_hours["standard"] * 3_600_000, rel=1e-6)


def test_a_queue_with_one_server_waits_as_theory_says() -> None:
    """M/D/1: the mean wait is rho D / (2 (1 - rho)), and the whole time D more."""
    rates = Rates(0.0, 0.0, 0.001, 0.0, 10_000)
    base = poisson(60_000, 0.8, seed=3)
    load = workload([(at, 1000, 1) for at in base.at_s.tolist()])
    one = node_device(slots=1, rates=rates)
    found = simulate(
        load, fixed_at(1), Setting([one], Objective(), {"standard": 1}), name="m/d/1", tick_s=600
    )
    assert found.first_token_s.mean() == pytest.approx(1.0 + 0.8 / (2 * 0.2), rel=0.05)


def test_a_node_is_ready_after_its_cold_start_and_requests_wait_in_front() -> None:
    load = workload([(5.0, 256, 1), (6.0, 256, 1)])
    policy = Scripted((0.0, 0), (20.0, 1))
    found = simulate(load, policy, Setting([node_device(cold_start_s=60.0)], Objective()), name="late")
    read_s = 256 * 0.0005 + 256**2 / 2 * 1e-7 + 0.004
    assert found.first_token_s[0] == pytest.approx(80 - 5 + read_s)
    at = {moment: (one, fleet) for moment, one, fleet in policy.heard}
    assert at[20.0][0].waiting == 2
    assert at[20.0][1] == Fleet(0)
    assert at[30.0][1] == Fleet(0, 1)
    assert at[80.0][1] == Fleet(1)
    assert found.node_hours["standard"] * 3600 >= 60  # it costs while it starts


def test_a_draining_node_ends_its_answers_and_gets_no_others() -> None:
    """Two nodes with an answer each; one is given up at 10 s, when both still have a second to do."""
    load = workload([(9.5, 10, 200), (9.5, 10, 200), (10.5, 10, 200)])
    policy = Scripted((0.0, 2), (10.0, 1))
    found = simulate(load, policy, Setting([node_device()], Objective(), {"standard": 2}), name="drain")
    assert found.cut == 0
    assert found.token_s[:2].min() == pytest.approx(0.006, rel=0.02)  # the third joined one of them only
    assert max(found.token_s[:2].tolist()) > 0.0063
    assert found.node_hours["standard"] * 3600 < 2 * 60


def test_nodes_that_still_start_are_given_up_first() -> None:
    policy = Scripted((0.0, 1), (10.0, 3), (20.0, 1), (30.0, 1))
    load = workload([(100.0, 10, 1)])
    simulate(load, policy, Setting([node_device()], Objective(), {"standard": 1}), name="x")
    fleets = {at: fleet for at, _, fleet in policy.heard}
    assert fleets[20.0] == Fleet(1, 2)
    assert fleets[30.0] == Fleet(1)


def test_arrivals_are_counted_by_whole_steps() -> None:
    load = workload([(at, 10, 1) for at in (0.0, 3.0, 9.99, 10.0, 25.0, 31.0, 90.0)])
    policy = Scripted((0.0, 1))
    simulate(load, policy, Setting([node_device()], Objective(), {"standard": 1}), name="x")
    assert {at: one.arrivals for at, one, _ in policy.heard}[40.0] == (3, 1, 1, 1)


def test_the_share_of_late_first_tokens_is_told() -> None:
    load = workload([(at, 10, 1) for at in range(10)] + [(20.0, 3_000, 1)])
    policy = Scripted((0.0, 1))
    goal = Objective(first_token_p99_s=1.0)
    simulate(
        workload([*zip(load.at_s, load.prompt_tokens, load.output_tokens, strict=True), (60.0, 1, 1)]),
        policy,
        Setting([node_device()], goal, {"standard": 1}),
        name="x",
    )
    shares = {at: one.late_share for at, one, _ in policy.heard}
    assert shares[0.0] is None
    assert shares[10.0] == 0.0
    assert shares[30.0] == pytest.approx(1 / 11)  # 3,000 tokens take two seconds


def test_the_share_that_is_told_is_of_the_promise_that_is_broken_more_often() -> None:
    """Three answers of 100 tokens while a prompt of 2,000 is read: their tokens take far longer than 7 ms."""
    rows = [(0.0, 10, 100)] * 3 + [(0.1, 2_000, 1), (0.2, 10, 50), (90.0, 10, 1)]
    for first_s, n_late in ((5.0, 0), (0.5, 2)):
        policy = Scripted((0.0, 1))
        goal = Objective(first_s, 0.007)
        found = simulate(
            workload(rows), policy, Setting([node_device(slots=8)], goal, {"standard": 1}), name="x"
        )
        late = (found.first_token_s > first_s).sum()
        slow = (found.token_s > 0.007).sum()
        assert (late, slow) == (n_late, 4)
        assert {at: one.late_share for at, one, _ in policy.heard}[80.0] == pytest.approx(4 / 5)


class TestPreemption:
    def run(self, seed: int) -> tuple[Scripted, float, int, int]:
        policy = Scripted((0.0, 4))
        load = poisson(1_200, 2.0, output=400)
        one = node_device(lifetime_s=400.0, max_nodes=9, cold_start_s=30.0)
        setting = Setting([one], Objective(), {"standard": 4}, seed=seed)
        found = simulate(load, policy, setting, name="spot")
        unanswered = int(np.isnan(found.first_token_s).sum())
        return policy, float(found.first_token_s.max()), found.cut, unanswered

    def test_nodes_are_taken_away_after_a_notice_and_nothing_is_lost_before_its_first_token(self) -> None:
        """Answers of a few seconds end within the notice of two minutes; only a node without one loses any."""
        seen = False
        for seed in range(4):
            policy, _, cut, unanswered = self.run(seed)
            assert unanswered == 0
            assert cut <= 12
            seen = seen or any(fleet.leaving for _, _, fleet in policy.heard)
            assert all(fleet.leaving <= fleet.ready for _, _, fleet in policy.heard)
            assert all(fleet.ready + fleet.starting == 4 for at, _, fleet in policy.heard[1:] if at % 10 == 5)
        assert seen

    def test_a_short_life_cuts_answers_and_counts_them(self) -> None:
        """Nodes that live ten seconds get their notice at once, and lose what they have in progress."""
        load = workload([(float(n), 10, 3_000) for n in range(20)])
        one = node_device(lifetime_s=10.0, cold_start_s=5.0, requests_per_s=0.1)
        found = simulate(load, Scripted((0.0, 6)), Setting([one], Objective(), seed=1), name="cut")
        assert found.cut > 0
        assert not np.isnan(found.first_token_s).any()
        assert NOTICE_S > 10


@settings(deadline=None, max_examples=12)
@given(
    name=st.sampled_from(sorted(POLICIES)),
    budget=st.integers(2_000_000, 40_000_000),
    seed=st.integers(0, 99),
)
def test_the_budget_of_a_day_is_never_passed_in_a_run(name: str, budget: int, seed: int) -> None:
    """Nodes that drain cost, too. Requests without a node wait until the next day; the run ends with the day's end."""
    load = poisson(2_500, 2.5, seed=seed)
    one = node_device(price=20_000_000, cold_start_s=20.0)
    spent: list[float] = []

    def watched(
        at_s: float,
        load: Load,
        fleets: Mapping[str, Fleet],
        classes: Sequence[ClassFacts],
        objective: Objective,
        state: Mapping[str, object],
    ) -> Wanted:
        assert objective.budget_left_today is not None
        if at_s < 86_400:
            spent.append(budget - objective.budget_left_today)
        return POLICIES[name](at_s, load, fleets, classes, objective, state)

    setting = Setting([one], Objective(), None, budget_a_day=budget)
    try:
        simulate(load, watched, setting, name=name, tick_s=min(10.0, TICKS_S[name]))
    except RuntimeError as error:  # the fixed one keeps waiting for a budget that never pays for it
        assert "without a node" in str(error)
    assert max(spent) <= budget


def test_a_policy_that_never_starts_a_node_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"idle leaves 1 requests without a node at \d+ s: script: 0"):
        simulate(
            workload([(1.0, 10, 1)]), Scripted((0.0, 0)), Setting([node_device()], Objective()), name="idle"
        )
