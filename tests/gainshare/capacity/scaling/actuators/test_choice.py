"""Which nodes are drained: never a busy one while an idle one of its class is there, and none before its successor is ready."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from gainshare.capacity.scaling.actuators.choice import Candidate, to_drain

START = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = {"cheap": 1, "dear": 9}


def node(
    device_class: str = "cheap", *, ready: bool = True, leaving: bool = False, busy: int = 0, age_s: int = 0
) -> Candidate:
    return Candidate(
        id=uuid4(),
        device_class=device_class,
        price=PRICES[device_class],
        is_ready=ready,
        is_leaving=leaving,
        busy=busy,
        created_at=START - timedelta(seconds=age_s),
    )


def ids(nodes: list[Candidate]) -> list[UUID]:
    return [one.id for one in nodes]


def test_nothing_goes_while_no_more_are_there_than_wanted() -> None:
    assert to_drain([node(), node("dear")], {"cheap": 1, "dear": 1}) == []
    assert to_drain([node()], {"cheap": 3}) == []


def test_the_emptiest_goes() -> None:
    busy, idle, busier = node(busy=2), node(busy=0), node(busy=3)
    assert ids(to_drain([busy, idle, busier], {"cheap": 2})) == [idle.id]
    assert ids(to_drain([busy, idle, busier], {"cheap": 1})) == [idle.id, busy.id]


def test_a_node_that_is_still_starting_goes_before_a_ready_one() -> None:
    ready, starting = node(), node(ready=False)
    assert ids(to_drain([ready, starting], {"cheap": 1})) == [starting.id]


def test_of_starting_nodes_the_newest_goes() -> None:
    old, new = node(ready=False, age_s=60), node(ready=False)
    assert ids(to_drain([old, new], {"cheap": 1})) == [new.id]


def test_a_node_with_a_notice_of_preemption_goes_before_the_others() -> None:
    leaving, idle = node(leaving=True, busy=2), node()
    assert ids(to_drain([idle, leaving], {"cheap": 1})) == [leaving.id]


def test_the_dearest_class_goes_first() -> None:
    cheap, dear = node("cheap"), node("dear")
    assert ids(to_drain([cheap, dear], {})) == [dear.id, cheap.id]


def test_a_node_stays_until_the_one_of_another_class_that_replaces_it_is_ready() -> None:
    old, new = node("dear"), node("cheap", ready=False)
    assert to_drain([old, new], {"cheap": 1}) == []
    ready = node("cheap")
    assert ids(to_drain([old, ready], {"cheap": 1})) == [old.id]


def test_a_node_stays_while_its_successor_has_no_device() -> None:
    assert to_drain([node("dear")], {"cheap": 1}) == []
    two = [node("dear"), node("dear", busy=1)]
    assert ids(to_drain(two, {"cheap": 1})) == [two[0].id]


def test_a_node_that_the_budget_does_not_pay_waits_for_no_successor() -> None:
    old, new = node("dear"), node("cheap", ready=False)
    assert to_drain([old, new], {"cheap": 1}, {"cheap": 1, "dear": 1}) == []
    assert ids(to_drain([old, new], {"cheap": 1}, {"cheap": 1, "dear": 0})) == [old.id]
    busy = node("dear", busy=2)
    assert ids(to_drain([busy, old, new], {"cheap": 1}, {"cheap": 1, "dear": 1})) == [old.id]


def test_to_zero_all_go() -> None:
    assert len(to_drain([node(busy=3), node(), node("dear", ready=False)], {"cheap": 0})) == 3


NODES = st.lists(
    st.builds(
        node,
        st.sampled_from(["cheap", "dear"]),
        ready=st.booleans(),
        busy=st.integers(0, 3),
        age_s=st.integers(0, 9),
    ),
    max_size=8,
)


@given(NODES, st.fixed_dictionaries({"cheap": st.integers(0, 4), "dear": st.integers(0, 4)}))
def test_drained_nodes_are_surplus_and_no_idle_one_stays_for_a_busy_one(
    nodes: list[Candidate], wanted: dict[str, int]
) -> None:
    gone = to_drain(nodes, wanted)
    for name, count in wanted.items():
        here = [one for one in nodes if one.device_class == name]
        going = [one for one in gone if one.device_class == name]
        assert len(going) <= max(len(here) - count, 0)
        staying = [one for one in here if one not in gone and one.is_ready]
        if going and any(one.is_ready for one in going) and staying:
            assert max(one.busy for one in going if one.is_ready) <= min(one.busy for one in staying)
    ready = sum(one.is_ready for one in nodes)
    left = ready - sum(one.is_ready for one in gone)
    assert left >= min(ready, sum(wanted.values())) or left >= sum(
        min(count, sum(one.device_class == name for one in nodes)) for name, count in wanted.items()
    )
