"""Routing and admission without the broker: a real Valkey that is killed, and a web process that starts without it."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from gainshare.capacity.agent.protocol import HEARTBEAT_PATH
from gainshare.capacity.hosts.nodes import order
from gainshare.capacity.hosts.registration import register_host
from gainshare.capacity.models import Host, Node, NodeState, Seat
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.local.broker import CONTROL_USER, Broker
from tests.gainshare.capacity.pool_world import make_class
from tests.gainshare.gateway.gateway_stack import (
    MODEL,
    Customer,
    GatewayStack,
    assert_ledger_holds,
    bill_of,
    eventually,
    running_stack,
)
from tests.gainshare.gateway.nodes.misbehaving import PROMPT, StandIn
from tests.gainshare.gateway.stand_in_thread import stand_ins

pytestmark = [pytest.mark.slow, pytest.mark.long]

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@dataclass
class World:
    """The stack, its broker, a static node, and one that an agent of the pool has."""

    stack: GatewayStack
    valkey: "subprocess.Popen[bytes]"
    static: StandIn
    pooled: StandIn

    def ask(self, customer: Customer) -> None:
        client = self.stack.client(customer.key)
        chunks = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5, stream=True)
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"

    def is_answered_by(self, node: StandIn, customer: Customer) -> bool:
        """Whether the node answers one more request. Both may be out for a moment: then the client tries again."""
        before = node.n_asked
        with suppress(openai.APIError):
            self.ask(customer)
        return node.n_asked > before


@pytest.fixture
def world(
    tmp_path: Path, short_folder: Path, django_db_setup: None, django_db_blocker: Any
) -> Iterator[World]:
    broker = Broker(
        data=short_folder / "valkey", sockets=short_folder,
        control_password="control-word", runner_password="runner-word", queue="runner.cpu",
    )  # fmt: skip
    broker.data.mkdir()
    broker.prepare()
    valkey = subprocess.Popen(broker.argv, stdout=subprocess.DEVNULL)
    try:
        eventually(broker.is_ready, what="the broker answers")
        with django_db_blocker.unblock(), stand_ins(2) as nodes:
            settings = {"BROKER_URL": broker.url(CONTROL_USER), "GAINSHARE_MODEL_NODES": nodes[0].url}
            with running_stack(tmp_path, **settings) as stack:
                yield World(stack, valkey, *nodes)
    finally:
        valkey.kill()
        valkey.wait()


def say(world: World, token: str, agent: str, beat: int, node: Node | None) -> list[dict[str, Any]]:
    """One heartbeat over the real web process."""
    report = {"device": 0, "node": None, "state": "starting"}
    if node is not None:
        report = {
            "device": 0,
            "node": str(node.pk),
            "state": "ready",
            "port": httpx.URL(world.pooled.url).port,
        }
    answer = httpx.post(
        f"{world.stack.base_url}{HEARTBEAT_PATH}",
        json={"agent": agent, "beat": beat, "n_devices": 1, "devices": [report]},
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    nodes: list[dict[str, Any]] = answer.json()["nodes"]
    return nodes


def test_requests_are_admitted_routed_and_paid_without_the_broker(world: World) -> None:
    customer = world.stack.customer()
    world.ask(customer)
    world.valkey.kill()
    world.valkey.wait()
    world.ask(customer)
    world.stack.web.stop()
    world.stack.web.start()
    world.stack.web.wait_until_ready()
    world.ask(customer)

    # A node joins by its agent's heartbeats, and is the only one that is left.
    device_class = make_class("spot")
    _, token = register_host(
        actor=world.stack.maintainer, name="a-host", device_class=device_class.name, address="127.0.0.1"
    )
    agent = str(uuid4())
    assert say(world, token, agent, 1, None) == []
    node = order(model=MODEL, device_class=device_class, reason="a test")
    assert node is not None
    (told,) = say(world, token, agent, 2, None)
    assert told["node"] == str(node.pk)
    say(world, token, agent, 3, node)
    assert Node.objects.get().state == NodeState.READY
    world.static.frozen = True
    eventually(
        lambda: world.is_answered_by(world.pooled, customer), within_s=60, what="the pool's node answers"
    )

    # One that hangs, as its agent says, gets nothing more.
    world.static.frozen = False
    Node.objects.update(hung_at=Host.objects.get().last_seen_at)

    eventually(
        lambda: world.is_answered_by(world.static, customer), within_s=60, what="the static node answers"
    )
    asked = world.pooled.n_asked
    for _ in range(4):
        world.ask(customer)
    assert world.pooled.n_asked == asked
    eventually(
        lambda: not UsageRecord.objects.filter(settled_at=None).exists(), what="all requests are settled"
    )
    completed = UsageRecord.objects.filter(status=RequestStatus.COMPLETED)
    assert completed.count() >= 3 + 1 + 1 + 4
    assert {record.charged_microcredits for record in completed} == {bill_of(PROMPT, 2)}
    assert not UsageRecord.objects.exclude(pk__in=completed).exclude(charged_microcredits=0).exists()
    eventually(lambda: not Seat.objects.exists(), what="no seat is left")
    assert_ledger_holds()
