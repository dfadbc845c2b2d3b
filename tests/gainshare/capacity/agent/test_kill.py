"""kill -9 of agent, node and web at every fault point: never two nodes on one device, and none forgotten."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django.live_server_helper import LiveServer

from benchmarks.faults import FAULT_VARIABLE, FOLDER_VARIABLE
from gainshare.capacity.hosts.nodes import drain, order
from gainshare.capacity.hosts.silence import lose_hosts
from gainshare.capacity.models import LIVE, DeviceClass, Host, Node, NodeState
from gainshare.local.services import web_command
from tests.gainshare.capacity.agent.agent_world import (
    ROOT,
    AgentProcess,
    Overseer,
    ask,
    eventually,
    make_agent,
    node_pid,
    place,
    reached,
    sandboxes,
)
from tests.gainshare.capacity.pool_world import MODEL, again
from tests.gainshare.gateway.gateway_stack import free_port, own_database

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(900),
]
AGENT_POINTS = [
    "agent.heartbeat.before_send",
    "agent.heartbeat.after_answer",
    "agent.start.after_record",
    "agent.start.after_spawn",
    "agent.drain.before_signal",
    "agent.drain.after_signal",
    "agent.end.before_report",
]
NODE_POINTS = ["node.start.before_sandbox", "node.start.after_sandbox"]
WEB_POINTS = [
    "capacity.heartbeat.after_take_over",
    "capacity.heartbeat.before_nodes",
    "capacity.heartbeat.before_commit",
    "capacity.heartbeat.after_commit",
]
SERVICE_POINTS = [
    "capacity.order.after_insert",
    "capacity.drain.after_update",
    "capacity.revoke.before_nodes",
    "capacity.tend.after_losses",
]


@dataclass
class Keeper:
    """Starts an agent again whenever a fault has killed it, as a supervisor does."""

    agent: AgentProcess
    restarts: int = 0

    def look(self) -> None:
        assert self.agent.process is not None
        status = self.agent.process.poll()
        if status is not None:
            assert status == -signal.SIGKILL, (status, self.agent.said)
            self.restarts += 1
            self.agent.start()

    def until(self, node: Node, *states: str) -> Node:
        def seen() -> Node | None:
            self.look()
            now = again(node)
            return now if now.state in states else None

        found: Node = eventually(seen, f"{node}: {self.agent.said}")
        return found


def whole_life(keeper: Keeper) -> list[Node]:
    """Order a node until one is ready, ask it, drain it to its end. Returns the nodes that this took."""
    taken = []
    for _ in range(3):
        taken.append(place_with(keeper))
        if keeper.until(taken[-1], NodeState.READY, NodeState.ENDED).state == NodeState.READY:
            break
    node = taken[-1]
    assert ask(node, "v1/completions", prompt="x", max_tokens=2).status_code == 200
    drain(node_id=node.pk, reason="the trough")
    keeper.until(node, NodeState.ENDED)
    return taken


def place_with(keeper: Keeper) -> Node:
    def tried() -> Node | None:
        keeper.look()
        return order(model=MODEL, device_class=DeviceClass.objects.get(), reason="a test")

    node: Node = eventually(tried, f"no device is free: {keeper.agent.said}")
    return node


def nothing_is_left(agent: AgentProcess) -> None:
    eventually(agent.device().is_free, "the device is taken", 30)
    assert sandboxes(agent.device()) == set()
    assert not Node.objects.filter(state__in=LIVE).exists()
    eventually(lambda: not Node.objects.filter(holds_device=True).exists(), "a device stays taken", 30)


@pytest.fixture
def agent(live_server: LiveServer, open_folder: Path) -> Iterator[AgentProcess]:
    made, _ = make_agent(live_server.url, open_folder)
    yield made
    made.close()


@pytest.mark.parametrize("point", [*AGENT_POINTS, *NODE_POINTS])
def test_a_killed_agent_or_starter_leaves_one_node_and_forgets_none(agent: AgentProcess, point: str) -> None:
    keeper = Keeper(agent.start(point))
    with Overseer(agent.device()):
        taken = whole_life(keeper)
        nothing_is_left(agent)
    assert (agent.folder / "faults" / point).exists()
    assert (len(taken), keeper.restarts) == ((1, 1) if point in AGENT_POINTS else (2, 0))
    if point in NODE_POINTS:
        assert "signal 9" in again(taken[0]).end_reason


@pytest.mark.parametrize("who", ["starter", "node", "both with the agent"])
def test_a_killed_node_is_told_and_its_device_is_free_again(agent: AgentProcess, who: str) -> None:
    keeper = Keeper(agent.start())
    with Overseer(agent.device()):
        node = place()
        reached(node, NodeState.READY)
        if who == "both with the agent":
            agent.kill()
        (starter,) = agent.device().holders()
        os.kill(node_pid(agent.device()) if who == "node" else starter, signal.SIGKILL)
        keeper.until(node, NodeState.ENDED)
        assert again(node).end_reason  # the site is told why
        whole_life(keeper)
        nothing_is_left(agent)


@dataclass
class Web:
    """The site's web process, which the test starts again after each fault."""

    database: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *faults: str) -> None:
        environment = {
            **os.environ,
            "DATABASE_URL": self.database,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
            FAULT_VARIABLE: ",".join(faults),
            FOLDER_VARIABLE: str(self.folder),
        }
        with (self.folder / "web.log").open("ab") as log:
            self.process = subprocess.Popen(
                web_command("--port", str(self.port), "--log-level", "warning"),
                env=environment,
                stdout=log,
                stderr=log,
            )

    def has_died_at(self, fault: str) -> bool:
        assert self.process is not None
        return self.process.poll() == -signal.SIGKILL and (self.folder / fault).exists()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def site(folder: Path) -> Iterator[tuple[Web, AgentProcess]]:
    """A web process with its own database, and an agent that speaks to it; neither is started yet."""
    with own_database() as database:
        (folder / "web").mkdir()
        web = Web(database, folder / "web")
        agent, _ = make_agent(web.url, folder)
        try:
            yield web, agent
        finally:
            agent.close()
            web.kill()


@pytest.mark.parametrize("point", WEB_POINTS)
def test_a_killed_site_repeats_a_heartbeat_and_nodes_go_on(open_folder: Path, point: str) -> None:
    with site(open_folder) as (web, agent), Overseer(agent.device()) as overseer:
        agent.start()
        web.start(point)
        eventually(lambda: web.has_died_at(point), agent.said)
        web.start()
        node = place()
        reached(node, NodeState.READY)
        web.kill()
        again_at = "capacity.heartbeat.before_commit"
        (web.folder / again_at).unlink(missing_ok=True)
        web.start(again_at)
        eventually(lambda: web.has_died_at(again_at), agent.said)
        assert ask(node, "v1/completions", prompt="x", max_tokens=2).status_code == 200  # without the site
        web.start()
        eventually(lambda: "the site is absent" in agent.said, agent.said)
        reached(node, NodeState.READY)
        drain(node_id=node.pk, reason="the trough")
        reached(node, NodeState.ENDED)
        nothing_is_left(agent)
        assert len(overseer.seen) == 1


def test_a_site_that_is_away_for_long_loses_no_node(open_folder: Path) -> None:
    with site(open_folder) as (web, agent):
        web.start()
        agent.start()
        node = place()
        reached(node, NodeState.READY)
        web.kill()
        for _ in range(15):
            time.sleep(1)
            assert lose_hosts(timezone.now()) == 0
        assert ask(node, "health").json()["status"] == "ok"
        web.start()
        before = again(node).load_at
        eventually(lambda: again(node).load_at != before, agent.said, 60)
        assert again(node).state == NodeState.READY


@pytest.mark.parametrize("point", SERVICE_POINTS)
def test_a_killed_caller_repeats_its_change(open_folder: Path, point: str) -> None:
    """Whoever orders, drains or revokes is killed after its statement: repeating it makes no second node."""
    with site(open_folder) as (web, agent), Overseer(agent.device()) as overseer:
        web.start()
        agent.start()
        eventually(lambda: "the site answers" in agent.said, agent.said)
        first = f"order(model={MODEL!r}, device_class=DeviceClass.objects.get(), reason='a test')"
        call(web, first, point)
        call(web, first, "")
        (node,) = Node.objects.all()
        reached(node, NodeState.READY)
        if point == "capacity.revoke.before_nodes":
            actor = "actor=User.objects.get(role='maintainer'), name=Host.objects.get().name"
            call(web, f"revoke_host({actor}, reason='a test')", point)
            assert again(node).state == NodeState.READY
            call(web, f"revoke_host({actor}, reason='a test')", "")
            assert again(node).state == NodeState.ENDED
            return
        change = f"drain(node_id={str(node.pk)!r}, reason='the trough')"
        if point == "capacity.tend.after_losses":  # as beat calls it
            Host.objects.update(leaves_at=timezone.now())
            change = "tend_hosts()"
        call(web, change, point)
        call(web, change, "")
        reached(node, NodeState.ENDED)
        nothing_is_left(agent)
        assert len(overseer.seen) == 1


def call(web: Web, what: str, fault: str) -> None:
    """Call a service in a process of its own, which dies at the fault point if the call reaches it."""
    program = (
        "import django; django.setup()\n"
        "from gainshare.accounts.models import User\n"
        "from gainshare.capacity.hosts.nodes import drain, order\n"
        "from gainshare.capacity.hosts.registration import revoke_host\n"
        "from gainshare.capacity.models import DeviceClass, Host\n"
        "from gainshare.capacity.tasks import tend_hosts\n"
        f"{what}\n"
    )
    environment = {
        **os.environ,
        "DATABASE_URL": web.database,
        "DJANGO_SETTINGS_MODULE": "gainshare.config.settings",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        FAULT_VARIABLE: fault,
        FOLDER_VARIABLE: str(web.folder),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True)
    has_fired = bool(fault) and (web.folder / fault).exists() and done.returncode == -signal.SIGKILL
    assert done.returncode == 0 or has_fired, done.stderr.decode()
