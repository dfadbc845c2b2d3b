"""Policies against the smallest fixed fleet, ways of routing, and the figures of both."""

from __future__ import annotations

import pytest

from gainshare.capacity.policies.fixed import fixed_at
from gainshare.capacity.policies.observed import Objective
from gainshare.capacity.policies.service_times import reachable
from gainshare.capacity.simulation.comparison import Compared, NoFleetMeets, compare, smallest_fixed
from gainshare.capacity.simulation.devices import device
from gainshare.capacity.simulation.figures import comparison_rows, routing_rows
from gainshare.capacity.simulation.pool import Setting, simulate
from gainshare.capacity.simulation.results import Outcome
from gainshare.capacity.simulation.routing import ROUTERS
from gainshare.capacity.simulation.workload import of_trace
from gainshare.capacity.traces.generator import generate
from gainshare.capacity.traces.workload import LONG_CONTEXT
from tests.gainshare.capacity.simulation.simulated_worlds import RATES, node_device, poisson, workload

pytestmark = pytest.mark.slow


def quiet(_text: str) -> None:
    pass


def run_fixed(nodes: int, load: object, objective: Objective) -> Outcome:
    setting = Setting([node_device(max_nodes=50)], objective, {"standard": nodes})
    return simulate(load, fixed_at(nodes), setting, name="fixed", tick_s=3600)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.5, 3.0, 9.0])
def test_the_smallest_fleet_meets_and_one_node_fewer_does_not(rate: float) -> None:
    load, goal = poisson(4_000, rate), Objective(1.2, 0.05)
    said: list[str] = []
    setting = Setting([node_device(max_nodes=50)], goal)
    nodes, found = smallest_fixed(load, setting, most=50, say=said.append)
    assert found.meets(1.2, 0.05)
    assert nodes == 1 or not run_fixed(nodes - 1, load, goal).meets(1.2, 0.05)
    assert found.cost == run_fixed(nodes, load, goal).cost
    assert said[0].startswith("fixed fleet of ")


def test_where_no_fleet_meets_the_objective_it_is_said_what_the_largest_reaches() -> None:
    load = workload([(float(n), 4_000, 2) for n in range(50)])
    setting = Setting([node_device(max_nodes=8)], Objective(0.5, 0.1))
    with pytest.raises(
        NoFleetMeets, match=r"no fixed fleet of up to 8 nodes meets 0\.5 s .* 8 nodes reach 2\.\d+ s"
    ):
        smallest_fixed(load, setting, most=8, say=quiet)


def test_what_prompts_alone_take_bounds_what_can_be_promised() -> None:
    load = workload([(float(n), 4_000, 10) for n in range(200)])
    one = device(
        load, RATES, name="a", price=1, slots=4, cold_start_s=1.0, max_nodes=3, lifetime_s=float("inf")
    )
    alone = run_fixed(50, load, Objective()).first_token_p99_s
    assert one.facts.first_token_s == pytest.approx(alone, rel=0.01)
    assert not one.facts.is_preemptible
    assert reachable(Objective(2.0, 0.1), one.facts) == Objective(round(1.25 * alone, 1), 0.1)
    assert reachable(Objective(9.0, 0.1), one.facts) == Objective(9.0, 0.1)


def test_the_measured_rate_is_what_a_full_node_does() -> None:
    """A queue that is never empty: one node ends as many requests a second as its facts say, within a few per cent."""
    load = poisson(3_000, 50.0)
    one = device(load, RATES, name="a", price=1, slots=4, cold_start_s=1.0, max_nodes=1)
    found = simulate(load, fixed_at(1), Setting([one], Objective(), {"a": 1}), name="full", tick_s=600)
    seconds = float((found.first_token_s + load.at_s).max())
    assert one.facts.requests_per_s == pytest.approx(3_000 / seconds, rel=0.07)


@pytest.fixture(scope="module")
def compared() -> Compared:
    load = poisson(6_000, 2.0)
    one = device(load, RATES, name="standard", price=1_000_000, slots=4, cold_start_s=30.0, max_nodes=20)
    goal = reachable(Objective(1.5, 0.1), one.facts)
    fixed = smallest_fixed(load, Setting([one], goal), most=20, say=quiet)
    policies = ("hpa", "ray", "forecast")
    return compare(
        load,
        [one],
        goal,
        policies=policies,
        is_tuned=True,
        fixed=fixed,
        budget_a_day=None,
        seed=0,
        say=quiet,
    )


def test_savings_are_against_the_fixed_fleet(compared: Compared) -> None:
    rows = {row.name: row for row in comparison_rows(compared, "here")}
    ours = compared.outcomes["forecast"]
    row = rows["here: forecast"]
    assert row.value == pytest.approx(100 * (ours.cost / compared.fixed.cost - 1), abs=0.06)
    assert row.holds is (compared.meets(ours) and ours.cost < compared.fixed.cost)
    assert rows["here: smallest fixed fleet"].value == compared.fixed_nodes
    assert rows["here: hpa"].holds is None  # others have no target


def test_tuned_policies_are_at_least_as_good_as_published(compared: Compared) -> None:
    for name, tuned in compared.tuned.items():
        published = compared.outcomes[name]
        assert compared.meets(tuned) or not compared.meets(published)
        if compared.meets(published):
            assert tuned.cost <= published.cost


def test_ours_is_compared_with_the_cheapest_that_meets_the_objective(compared: Compared) -> None:
    row = comparison_rows(compared, "here")[-1]
    best = compared.best_published()
    every = [compared.outcomes["hpa"], compared.outcomes["ray"], *compared.tuned.values()]
    met = [one.cost for one in every if compared.meets(one)]
    if met:
        assert best is not None
        assert best.cost == min(met)
        assert row.value == pytest.approx(100 * (compared.outcomes["forecast"].cost / min(met) - 1), abs=0.06)
    else:
        assert row.value is None
        assert row.how == "no published policy meets the objective as published or with other targets"


def test_prefix_aware_routing_hits_more_and_waits_less() -> None:
    trace = generate(seed=3, days=0.05, requests=3_000, workload=LONG_CONTEXT)
    load = of_trace(trace, with_prefixes=True)
    fast = RATES.faster(60)
    found = []
    for name, router in ROUTERS.items():
        one = device(
            load, fast, name="a", price=1, slots=8, cold_start_s=1.0, max_nodes=6, cache_blocks=1_500
        )
        setting = Setting([one], Objective(), {"a": 6}, router=router)
        found.append(simulate(load, fixed_at(6), setting, name=name))
    by_name = {one.policy: one for one in found}
    assert by_name["prefix-aware"].hit_rate > 1.3 * by_name["round robin"].hit_rate
    assert by_name["prefix-aware"].first_token_p99_s < by_name["round robin"].first_token_p99_s
    assert all(0 < one.hit_rate < 1 for one in found)
    rows = routing_rows(found)
    assert [row.holds for row in rows if row.name.startswith("prefix-aware")] == [True, True]
    assert all(row.holds is None for row in rows if not row.name.startswith("prefix-aware"))
