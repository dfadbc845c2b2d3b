"""What holds for every policy, whatever is observed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainshare.capacity.policies.limits import have
from gainshare.capacity.policies.observed import ClassFacts, Fleet, Load, Objective
from gainshare.capacity.policies.registry import POLICIES, TICKS_S

pytestmark = pytest.mark.slow

NAMES = sorted(POLICIES)


@st.composite
def classes(draw: st.DrawFn) -> list[ClassFacts]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        alone = draw(st.floats(0.0, 0.15))
        found.append(
            ClassFacts(
                name=f"class-{number}",
                price=draw(st.integers(0, 5_000_000)),
                slots=draw(st.integers(1, 8)),
                requests_per_s=draw(st.sampled_from([0.0, 0.2, 0.5, 3.0])),
                cold_start_s=draw(st.sampled_from([0.0, 20.0, 120.0, 300.0])),
                max_nodes=draw(st.integers(0, 6)),
                is_preemptible=draw(st.booleans()),
                first_token_s=draw(st.floats(0.0, 3.0)),
                token_alone_s=alone,
                token_full_s=alone + draw(st.floats(0.0, 0.1)),
            )
        )
    return found


def fleets(facts: Sequence[ClassFacts]) -> st.SearchStrategy[dict[str, Fleet]]:
    """Within the limits of the classes, as an actuator keeps them."""

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Fleet]:
        found = {}
        for one in facts:
            ready = draw(st.integers(0, one.max_nodes))
            found[one.name] = Fleet(
                ready, draw(st.integers(0, one.max_nodes - ready)), draw(st.integers(0, ready))
            )
        return found

    return build()


@st.composite
def observations(draw: st.DrawFn) -> tuple[list[ClassFacts], list[tuple[Load, dict[str, Fleet]]]]:
    facts = draw(classes())
    seen = []
    for _ in range(draw(st.integers(1, 4))):
        load = Load(
            draw(st.integers(0, 60)),
            draw(st.integers(0, 400)),
            tuple(draw(st.lists(st.integers(0, 50), max_size=40))),
            10.0,
            draw(st.none() | st.floats(0.0, 1.0)),
        )
        seen.append((load, draw(fleets(facts))))
    return facts, seen


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(seen=observations(), start_s=st.floats(0, 10_000_000), budget=st.none() | st.integers(0, 10_000_000))
def test_limits_purity_and_state(
    name: str,
    seen: tuple[list[ClassFacts], list[tuple[Load, dict[str, Fleet]]]],
    start_s: float,
    budget: int | None,
) -> None:
    """Never above the greatest number, equal answers to equal questions, a state that survives JSON, a reason in words."""
    facts, steps = seen
    state: Mapping[str, object] = {}
    for number, (load, fleet) in enumerate(steps):
        at_s = start_s + number * TICKS_S[name]
        before = json.dumps(state)
        question = (at_s, load, fleet, facts, Objective(budget_left_today=budget), state)
        found = POLICIES[name](*question)
        assert POLICIES[name](*question) == found
        assert json.dumps(state) == before
        assert set(found.nodes) == {one.name for one in facts}
        for one in facts:
            assert 0 <= found.nodes[one.name] <= one.max_nodes
        assert "\n" not in found.reason
        assert len(found.reason) < 300
        assert re.match(r"(no change|[+-]\d+ class-\d(, [+-]\d+ class-\d)*): .+", found.reason), found.reason
        assert "nan" not in found.reason
        state = json.loads(json.dumps(found.state))
        assert state == found.state


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(
    facts=classes(),
    loads=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300)), min_size=1, max_size=30),
    budget=st.integers(0, 2_000_000),
    into_day_s=st.sampled_from([0.0, 40_000.0, 85_000.0]),
)
def test_the_budget_of_a_day_is_never_passed(
    name: str,
    facts: list[ClassFacts],
    loads: list[tuple[int, int]],
    budget: int,
    into_day_s: float,
) -> None:
    """Whatever comes, nodes that are wanted, those that start and those that still drain cost no more than the budget."""
    state: Mapping[str, object] = {}
    nodes = {one.name: 0 for one in facts}
    drains = {one.name: 0 for one in facts}
    price = {one.name: one.price for one in facts}
    tick_s, spent = 60.0, 0.0
    for number, (running, waiting) in enumerate(loads):
        at_s = into_day_s + number * tick_s
        if at_s >= 86_400:
            break
        fleet = {key: Fleet(n) for key, n in nodes.items()}
        load = Load(running, waiting, (running,) * 12)
        left = int(budget - spent)
        found = POLICIES[name](at_s, load, fleet, facts, Objective(budget_left_today=left), state)
        drains = {key: max(0, nodes[key] - found.nodes[key]) for key in nodes}
        nodes, state = dict(found.nodes), found.state
        today_s = min(tick_s, 86_400 - at_s)
        spent += sum((nodes[key] + drains[key]) * price[key] * today_s / 3600 for key in nodes)
        assert spent <= budget


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fixed"])
def test_the_budget_does_bind(name: str) -> None:
    """Without one, each policy wants nodes that the budget of the test above would not pay."""
    one = ClassFacts("h100", 3_600_000_000, 4, 0.5, 20.0, 8, False, 0.5, 0.02, 0.05)
    busy = Load(40, 100, (60,) * 30)

    def wanted(left: int | None) -> tuple[int, str]:
        found = POLICIES[name](
            0.0, busy, {"h100": Fleet(1)}, [one], Objective(budget_left_today=left), {"side": 1, "since": -99}
        )
        return found.nodes["h100"], found.reason

    assert wanted(None)[0] > 1
    assert (
        wanted(600_000_000)[0] == 1
    )  # a million micro-credits a second, for the ten minutes that a node is kept
    assert wanted(600_000_000)[1].endswith("the day's budget allows no more")
    assert wanted(599_999_999)[0] == 0


def test_the_dearest_for_what_it_does_goes_first_when_the_budget_ends() -> None:
    cheap = ClassFacts("cheap", 3_600_000, 4, 1.0, 0.0, 4)
    dear = ClassFacts("dear", 3_600_000, 4, 0.5, 0.0, 4)
    load = Load(28, 0, (28,) * 12)
    fleet = {"cheap": Fleet(4), "dear": Fleet(4)}
    found = POLICIES["forecast"](
        0.0, load, fleet, [dear, cheap], Objective(budget_left_today=5 * 600_000), {}
    )
    assert found.nodes == {"cheap": 4, "dear": 1}


@given(ready=st.integers(0, 5), starting=st.integers(0, 5), leaving=st.integers(0, 9))
def test_nodes_with_a_notice_do_not_count_as_present(ready: int, starting: int, leaving: int) -> None:
    fleet = {"a": Fleet(ready, starting, leaving)}
    assert have(fleet, "a") == max(0, ready - leaving) + starting
