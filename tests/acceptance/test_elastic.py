"""A real elastic stack under real load: nodes come with it and go after it, and faults of nodes reach no request that waits.

`test_one_two_one` is the short form. The long one has two classes, and a node killed, one hung, one slowed at the peak.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils.html import escape

from gainshare.capacity.routing.rates import RECENT
from gainshare.web.views.scaling import PER_PAGE
from tests.acceptance.elastic_faults import hung, kill, processes_of, slowed
from tests.acceptance.elastic_load import CUT, ENDED, Load, Outcome, customer, eventually
from tests.acceptance.elastic_stack import (
    MODEL,
    NodeRow,
    Pool,
    assert_decisions_have_reasons,
    assert_every_request_is_accounted_for,
    node_of,
)
from tests.acceptance.running_stack import Stack
from tests.gainshare.capacity.agent.agent_world import AgentProcess

pytestmark = [pytest.mark.stack, pytest.mark.sandbox]

PATIENCE_S = 300.0
MOST_KILLS = 8
PEAK = 40  # clients that ask without a pause: on two nodes they wait for longer than is promised
FORGOTTEN_S = (
    RECENT.total_seconds() + PATIENCE_S
)  # until the slow answers of the peak no longer describe a class
TROUGH = {"clients": 1, "pause_s": 3.0}


@pytest.fixture
def load_of(start_stack: Callable[..., Stack]) -> Iterator[Callable[[Stack, int], Load]]:
    """Starts clients, each with an account of its own, and stops them at the end of the test."""
    loads: list[Load] = []

    def start(stack: Stack, most: int) -> Load:
        load = Load(stack, [customer(stack, f"load-{number}") for number in range(most)])
        loads.append(load)
        load.start(most)
        return load

    yield start
    for load in loads:
        load.stop()


def reach(pool: Pool, condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    return eventually(condition, within_s=within_s, what=lambda: f"{what}; {pool.state()}")


def reach_ready(pool: Pool, count: int, what: str) -> list[NodeRow]:
    """Wait until at least so many nodes answer."""
    found: list[NodeRow] = reach(pool, lambda: len(pool.ready()) >= count and pool.ready(), what)
    return found


def reach_only(
    pool: Pool, is_wanted: Callable[[NodeRow], bool], what: str, within_s: float = PATIENCE_S
) -> NodeRow:
    """Wait until one node is left, and it is one that is wanted."""

    def left() -> NodeRow | None:
        nodes = pool.nodes()
        return nodes[0] if len(nodes) == 1 and nodes[0].state == "ready" and is_wanted(nodes[0]) else None

    node: NodeRow = reach(pool, left, what, within_s)
    return node


def kill_under_a_stream(pool: Pool, load: Load, *, ready: int) -> None:
    """Kill the node of a stream that has begun, and wait until another one is there for it.

    Once more where the stream was faster all the same.
    """
    seen = []
    for _ in range(MOST_KILLS):
        outcome, killed = ask_and_kill(pool, load)
        seen.append((outcome, killed))
        if killed:
            reach_without(pool, killed)
            reach_ready(pool, ready, "the killed node is replaced")
        if outcome.kind == CUT:
            return
    raise AssertionError(f"no stream was cut by a kill: {seen}")


def ask_and_kill(pool: Pool, load: Load) -> tuple[Outcome, str]:
    """One request, whose node is killed when its first token has come; what became of it, and the node if it was found.

    Nodes are slowed down for it: an answer of this model is else over before its node can be found.
    """
    killed = []
    devices = {node.id: pool.device_of(node) for node in pool.ready()}
    processes = {node: processes_of(device) for node, device in devices.items()}
    with ExitStack() as all_slowed:
        for device in devices.values():
            all_slowed.enter_context(slowed(device, 20))
        connection = all_slowed.enter_context(pool.stack.database())

        def kill_its_node(request_id: str) -> None:
            if (node := node_of(connection, request_id)) in processes:
                kill(processes[node])
                killed.append(node)

        outcome = load.ask(on_first=kill_its_node)
    return outcome, "".join(killed)


def reach_without(pool: Pool, killed: str) -> None:
    reach(pool, lambda: killed not in {node.id for node in pool.nodes()}, "the killed node is noticed")


def ends_more(load: Load, more: int) -> Callable[[], bool]:
    """Whether so many further requests have ended."""
    before = load.counted()[ENDED]
    return lambda: load.counted()[ENDED] >= before + more


@pytest.mark.measures
@pytest.mark.timeout(600)
def test_one_two_one(start_stack: Callable[..., Stack], load_of: Callable[[Stack, int], Load]) -> None:
    stack = start_stack(devices=2)
    pool = Pool(stack, {"local": stack.home.agent})
    reach_ready(pool, 1, "the first node is ready")
    pool.serve(policy="kpa", is_automatic=True, slots=4)
    load = load_of(stack, 6)

    load.set(6)
    reach_ready(pool, 2, "the second node is ready")
    reach(pool, ends_more(load, 20), "requests end on both nodes")
    kill_under_a_stream(pool, load, ready=2)
    reach(pool, ends_more(load, 20), "requests end after the kill")

    load.set(1, pause_s=1.0)
    reach_only(pool, lambda node: True, "one node is left")
    load.stop()
    assert_every_request_is_accounted_for(pool, load)
    assert_decisions_have_reasons(pool)


@pytest.fixture
def two_classes(start_stack: Callable[..., Stack], tmp_path: Path) -> Iterator[Pool]:
    """A stack with two dear devices, and a second host with two cheap ones, whose agent is a process of the test."""
    stack = start_stack(devices=2)
    pool = Pool(stack, {"local": stack.home.agent, "cheap-host": stack.folder / "cheap" / "agent"})
    with stack.database() as connection:
        connection.execute("UPDATE capacity_deviceclass SET price_microcredits_per_device_hour = 2000000")
        connection.execute(
            "INSERT INTO capacity_deviceclass (name, description, price_microcredits_per_device_hour, is_preemptible, "
            "hardware, max_nodes, cold_start_s, created_at, updated_at) "
            "VALUES ('cheap', '', 500000, false, '', 8, 20, now(), now())"
        )
    made = pool.site.post(
        "capacity/hosts/", {"name": "cheap-host", "device_class": "cheap", "address": "127.0.0.1"}
    )
    folder = stack.folder / "cheap"
    folder.mkdir()
    agent = AgentProcess(stack.url, folder, made["token"], devices=2)
    agent.start()
    try:
        yield pool
    finally:
        agent.close()


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_one_three_one_with_faults_at_the_peak(
    two_classes: Pool, load_of: Callable[[Stack, int], Load]
) -> None:
    pool = two_classes
    load = load_of(pool.stack, PEAK)
    load.set(**TROUGH)
    pool.serve(
        classes=["local", "cheap"],
        policy="forecast",
        is_automatic=True,
        slots=1,
    )
    is_cheap = lambda node: node.device_class == "cheap"  # noqa: E731 - named for the two waits below
    reach_only(pool, is_cheap, "in the trough one node of the cheap class is left")

    load.set(PEAK)
    reach_ready(pool, 3, "three nodes are ready at the peak")
    reach(pool, ends_more(load, 20), "requests end at the peak")

    kill_under_a_stream(pool, load, ready=3)

    stuck = pool.ready()[0]
    with hung(pool.device_of(stuck)):
        reach(pool, lambda: stuck.id not in {node.id for node in pool.ready()}, "the hung node is out")
        reach(pool, ends_more(load, 20), "requests end beside the hung node")
    reach_ready(pool, 3, "three nodes answer after the hang")

    slow = pool.ready()[0]
    before = _answered(pool)
    with slowed(pool.device_of(slow), 5):
        reach(pool, ends_more(load, 100), "requests end beside the slow node")
    after = _answered(pool)
    shares = {node: after[node] - before.get(node, 0) for node in after}
    others = [count for node, count in shares.items() if node != slow.id and count]
    assert others and shares.get(slow.id, 0) < max(others), "the slow node got as much as the fastest"

    load.set(**TROUGH)
    reach_only(pool, is_cheap, "after the peak one node of the cheap class is left", FORGOTTEN_S)
    load.stop()
    assert_every_request_is_accounted_for(pool, load)
    assert_decisions_have_reasons(pool)
    assert max(sum(row["wanted"].values()) for row in pool.decisions()) >= 3
    html = _page(pool.stack, f"/scaling/{MODEL}/")
    assert "<svg" in html
    newest = pool.decisions()[-(PER_PAGE // 2) :]
    assert [row["reason"] for row in newest if escape(row["reason"]) not in html] == []


def _answered(pool: Pool) -> dict[str, int]:
    """Requests that each node has answered, as the gateway counted them."""
    with pool.stack.database() as connection:
        rows = connection.execute("SELECT node, sum(requests)::int FROM capacity_nodewindow GROUP BY node")
        return dict(rows.fetchall())


def _page(stack: Stack, path: str) -> str:
    """A page as the administrator sees it."""
    with httpx.Client(base_url=stack.url, timeout=60, trust_env=False, follow_redirects=True) as client:
        client.get("/login/")
        form = {
            "username": "admin",
            "password": stack.admin_password,
            "csrfmiddlewaretoken": client.cookies["csrftoken"],
        }
        client.post("/login/", data=form, headers={"Referer": f"{stack.url}/login/"})
        answer = client.get(path)
    assert answer.status_code == 200
    return answer.text
