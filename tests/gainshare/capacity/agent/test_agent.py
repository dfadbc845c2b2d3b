"""A real agent and real sandboxed nodes: from an order to a ready node, through a killed agent, to its end."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_django.live_server_helper import LiveServer

from benchmarks.confined_node.folders import node_uid
from gainshare.capacity.hosts.nodes import drain, order
from gainshare.capacity.hosts.tokens import node_token
from gainshare.capacity.models import DeviceClass, Host, Node, NodeState
from tests.gainshare.capacity.agent.agent_world import (
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
from tests.needs import only_root

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture
def agent(live_server: LiveServer, open_folder: Path) -> Iterator[AgentProcess]:
    made, _ = make_agent(live_server.url, open_folder)
    yield made
    made.close()


class LongAnswer(threading.Thread):
    """A streamed answer of some hundred tokens, as the gateway asks for it."""

    def __init__(self, node: Node, n_tokens: int = 400) -> None:
        super().__init__()
        self.url, self.token, self.n_tokens = again(node).url, node_token(node.pk), n_tokens
        self.first = threading.Event()
        self.last: dict[str, Any] = {}
        self.is_whole = False

    def run(self) -> None:
        body = {
            "model": MODEL,
            "prompt": "x",
            "max_tokens": self.n_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        body["stream_options"] = {"include_usage": True}
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.stream(
            "POST", f"{self.url}/v1/completions", json=body, headers=headers, timeout=120, trust_env=False
        ) as answer:
            for line in answer.iter_lines():
                self.first.set()
                if line == "data: [DONE]":
                    self.is_whole = True
                elif line.startswith("data: "):
                    self.last = json.loads(line[6:])


def test_a_node_outlives_a_killed_agent_and_drains_whole_through_two_more(agent: AgentProcess) -> None:
    """kill -9 right after the start, between two heartbeats, and right after the signal to drain: one node, one answer."""
    agent.start("agent.start.after_spawn")
    with Overseer(agent.device()) as overseer:
        node = place()
        eventually(lambda: agent.has_died_at("agent.start.after_spawn"), "the agent lives")
        agent.start()
        ready = reached(node, NodeState.READY)
        assert (
            ask(ready, "v1/completions", prompt="hello", max_tokens=4).json()["usage"]["completion_tokens"]
            == 4
        )
        assert httpx.get(f"{ready.url}/v1/models", trust_env=False).status_code == 401
        pid = node_pid(agent.device())
        names = [
            line.split(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        ]
        assert names == ["lo"]
        agent.kill()
        agent.start("agent.drain.after_signal")
        answer = LongAnswer(node)
        answer.start()
        assert answer.first.wait(60)
        assert drain(node_id=node.pk, reason="the trough")
        eventually(lambda: agent.has_died_at("agent.drain.after_signal"), "the agent lives")
        agent.start()
        gone = reached(node, NodeState.ENDED, 120)
        answer.join(60)
        assert answer.is_whole and answer.last["usage"]["completion_tokens"] == answer.n_tokens
        assert gone.end_reason == "the trough"
        eventually(agent.device().is_free, "the device is taken", 20)
        assert len(overseer.seen) == 1
    eventually(lambda: Host.objects.get().version, "the installed tree is not known", 30)
    assert Node.objects.count() == 1


def test_an_order_that_cannot_be_carried_out_says_why(agent: AgentProcess) -> None:
    agent.start()
    for model, tree, said in (
        ("../../etc", "", "no name of a model"),
        ("--upstream=http://x", "", "no name of a model"),
        ("unknown-model", "", "has no model 'unknown-model'"),
        (MODEL, "../../etc", "no hash of a tree"),
    ):
        gone = reached(place(model, tree=tree), NodeState.ENDED, 60)
        assert said in gone.end_reason
    assert sandboxes(agent.device()) == set()


def test_a_second_agent_of_one_folder_does_not_start(agent: AgentProcess) -> None:
    agent.start()
    eventually(lambda: "the site answers" in agent.said, agent.said, 60)
    other = AgentProcess(agent.url, agent.folder, agent.token)
    other.start()
    assert other.wait(60) == 1
    assert "another agent runs in" in agent.said
    assert agent.process is not None and agent.process.poll() is None


def test_a_revoked_or_wrong_token_is_told_and_ends_nothing_at_once(agent: AgentProcess) -> None:
    agent.token = f"gsh_{'0' * 12}_{'0' * 64}"
    agent.start()
    eventually(lambda: "refuses this host's token" in agent.said, agent.said, 60)
    assert agent.token not in agent.said
    agent.signal(signal.SIGTERM)
    assert agent.wait(30) == 0


def test_a_notice_of_preemption_reaches_the_site(agent: AgentProcess) -> None:
    agent.start()
    eventually(lambda: Host.objects.get().n_devices, agent.said, 60)
    agent.signal(signal.SIGUSR1)
    eventually(lambda: Host.objects.get().leaves_at, agent.said, 30)
    assert order(model=MODEL, device_class=DeviceClass.objects.get(), reason="a test") is None
    agent.signal(signal.SIGTERM)
    assert agent.wait(30) == 0
    assert Host.objects.get().n_devices == 0


@pytest.mark.long
def test_a_hung_node_is_told_within_seconds_comes_back_and_else_is_ended(agent: AgentProcess) -> None:
    agent.options = ["--hung-s", "3", "--hung-end-s", "20"]
    agent.start()
    node = place()
    reached(node, NodeState.READY)
    pid = node_pid(agent.device())
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    eventually(lambda: again(node).hung_at, agent.said, 15)
    assert again(node).state == NodeState.READY
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: again(node).hung_at is None, agent.said, 15)
    os.kill(pid, signal.SIGSTOP)
    gone = reached(node, NodeState.ENDED, 60)
    assert "answered nothing for 20 s" in gone.end_reason
    assert time.monotonic() - began < 90
    assert agent.device().is_free()


@pytest.mark.long
def test_a_newer_agent_takes_over_and_the_older_one_ends_with_its_nodes(
    agent: AgentProcess, open_folder: Path
) -> None:
    agent.start()
    node = place()
    reached(node, NodeState.READY)
    newer = AgentProcess(agent.url, open_folder / "newer", agent.token)
    (open_folder / "newer").mkdir()
    newer.start()
    try:
        assert agent.wait(60) == 3
        eventually(agent.device().is_free, "its node still runs", 30)
        assert again(node).state == NodeState.ENDED
        assert newer.process is not None and newer.process.poll() is None
        reached(place(), NodeState.READY)
        assert len(sandboxes(newer.device())) == 1
    finally:
        newer.close()


@pytest.mark.long
def test_nodes_of_two_devices_have_users_and_folders_of_their_own(agent: AgentProcess) -> None:
    agent.devices = 2
    agent.start()
    nodes = [place(), place()]
    for node in nodes:
        reached(node, NodeState.READY)
    owners = [Path(f"/proc/{node_pid(agent.device(number))}").stat().st_uid for number in (0, 1)]
    if os.geteuid() == 0:
        assert owners == [node_uid(0), node_uid(1)] and owners[0] != owners[1]
    assert ask(nodes[0], "v1/models").status_code == 200
    wrong = {"Authorization": f"Bearer {node_token(nodes[1].pk)}"}
    assert httpx.get(f"{again(nodes[0]).url}/v1/models", headers=wrong, trust_env=False).status_code == 401
    agent.devices = 1
    agent.kill()
    agent.start()  # with one device: the node of the other one ends
    assert reached(nodes[1], NodeState.ENDED, 60)
    eventually(agent.device(1).is_free, "the second device is taken", 30)
    assert again(nodes[0]).state == NodeState.READY


@pytest.mark.long
def test_what_holds_a_device_without_a_record_is_killed(agent: AgentProcess) -> None:
    agent.start()
    node = place()
    reached(node, NodeState.READY)
    agent.kill()
    agent.device().record.write_text("{")
    agent.start()
    eventually(lambda: again(node).state == NodeState.ENDED, "the node is ended")
    eventually(agent.device().is_free, "the device is free")
    successor = place()
    reached(successor, NodeState.READY)
    assert again(node).state == NodeState.ENDED and successor.pk != node.pk


@pytest.mark.long
@only_root
def test_a_full_disk_stops_new_starts_and_no_running_node(agent: AgentProcess) -> None:
    agent.devices = 2
    agent.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs", str(agent.home)], check=True)
    try:
        agent.start()
        node = place()
        reached(node, NodeState.READY)
        assert "nearly full" in Host.objects.get().problem
        with suppress(OSError), (agent.home / "filling").open("wb", buffering=0) as filling:
            while True:
                filling.write(b"x" * 65_536)
        refused = place()
        gone = reached(refused, NodeState.ENDED, 120)
        assert "space" in gone.end_reason
        assert ask(node, "v1/completions", prompt="x", max_tokens=2).status_code == 200
        assert again(node).state == NodeState.READY
        agent.kill()
        agent.start()
        before = again(node).load_at
        eventually(lambda: again(node).load_at != before, agent.said, 60)
        (agent.home / "filling").unlink()
        reached(place(), NodeState.READY)
    finally:
        agent.close()
        subprocess.run(["umount", "--lazy", str(agent.home)], check=True)
