"""Heartbeats: what a host's agent may say and change, and what it cannot."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import override_settings
from django.utils import timezone
from rest_framework.test import APIClient

from gainshare.capacity.agent.protocol import HEARTBEAT_PATH, MAX_DEVICES
from gainshare.capacity.hosts.heartbeats import STARTS_PER_HOUR
from gainshare.capacity.hosts.leaving import DRAIN_BEFORE_S, drain_leaving
from gainshare.capacity.hosts.nodes import drain, lose_silent_hosts, order
from gainshare.capacity.hosts.registration import forget_starts, revoke_host
from gainshare.capacity.hosts.silence import PATIENCE, lose_hosts
from gainshare.capacity.hosts.tokens import new_token, node_token
from gainshare.capacity.models import AgentStart, Host, Node, NodeState
from tests.gainshare.capacity.pool_world import MODEL, again, make_class, make_host, make_user, race

pytestmark = pytest.mark.django_db

HERE = "192.0.2.7"


@dataclass
class Agent:
    """One start of an agent, as it speaks over REST."""

    host: Host
    token: str
    devices: int = 1
    at: str = HERE
    id: UUID = field(default_factory=uuid4)
    beats: int = 0

    def say(self, *reports: dict[str, Any], **more: Any) -> Any:
        self.beats += 1
        said = {report["device"]: report for report in reports}
        body = {
            "agent": str(self.id),
            "beat": self.beats,
            "n_devices": self.devices,
            "devices": [said.get(device, free(device)) for device in range(self.devices)],
            **more,
        }
        return self.send(body)

    def send(self, body: Any) -> Any:
        client = APIClient(REMOTE_ADDR=self.at, raise_request_exception=False)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {self.token}")
        return client.post(HEARTBEAT_PATH, body, format="json")

    def nodes(self, *reports: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        answer = self.say(*reports, **more)
        assert answer.status_code == 200, answer.content
        found: list[dict[str, Any]] = answer.json()["nodes"]
        return found


def free(device: int) -> dict[str, Any]:
    return {"device": device, "node": None, "state": "starting"}


def runs(node: Node, state: str = "ready", **more: Any) -> dict[str, Any]:
    return {"device": node.device, "node": str(node.pk), "state": state, "port": 8200 + node.device, **more}


def agent_of(host: Host, **more: Any) -> Agent:
    token = new_token()
    Host.objects.filter(pk=host.pk).update(token_prefix=token.prefix, token_digest=token.digest)
    return Agent(host, token.text, **more)


def ordered(host: Host) -> Node:
    node = order(model=MODEL, device_class=host.device_class, reason="a test")
    assert node is not None
    return node


@pytest.fixture
def host() -> Host:
    return make_host(make_class(), devices=2, address="")


@pytest.fixture
def agent(host: Host) -> Iterator[Agent]:
    made = agent_of(host, devices=2)
    made.nodes()
    yield made


def test_an_order_becomes_ready_serves_drains_and_ends(agent: Agent) -> None:
    node = ordered(agent.host)
    (told,) = agent.nodes()
    assert told == {
        "node": str(node.pk), "device": 0, "model": MODEL, "tree": "", "token": node_token(node.pk), "is_draining": False,
        "berth": 0,
    }  # fmt: skip
    agent.nodes(runs(node, "starting"))
    assert again(node).state == NodeState.STARTING
    agent.nodes(runs(node, load={"running": 3, "waiting": 1, "cache_use": 0.5}))
    serving = again(node)
    assert (serving.state, serving.url) == (NodeState.READY, f"http://{HERE}:8200")
    assert serving.load == {"running": 3, "waiting": 1, "cache_use": 0.5}
    assert drain(node_id=node.pk, reason="the trough")
    (told,) = agent.nodes(runs(node))
    assert told["is_draining"]
    assert agent.nodes(ended=[{"node": str(node.pk), "reason": "exit status 0"}]) == []
    gone = again(node)
    assert (gone.state, gone.end_reason, gone.holds_device) == (NodeState.ENDED, "the trough", False)


def test_an_order_that_was_told_but_not_begun_stays_until_it_is(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    assert [told["node"] for told in agent.nodes()] == [str(node.pk)]  # the first answer may have been lost
    restarted = Agent(agent.host, agent.token, devices=2)
    assert [told["node"] for told in restarted.nodes()] == [str(node.pk)]


@pytest.mark.parametrize("state", [NodeState.READY, NodeState.DRAINING])
def test_a_node_that_its_agent_no_longer_has_ends(agent: Agent, state: NodeState) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(runs(node))
    Node.objects.filter(pk=node.pk).update(state=state)
    assert agent.nodes() == []
    assert again(node).state == NodeState.ENDED
    assert ordered(agent.host).device == node.device


def test_a_start_that_failed_says_why(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(ended=[{"node": str(node.pk), "reason": "no model 'x' here\x1b[2J"}])
    gone = again(node)
    assert gone.state == NodeState.ENDED
    assert gone.end_reason.startswith("no model 'x' here") and "\x1b" not in gone.end_reason


def test_a_hung_node_is_passed_over_and_comes_back(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(runs(node))
    agent.nodes(runs(node, "hung"))
    hung = again(node)
    assert (hung.state, hung.hung_at is not None) == (NodeState.READY, True)
    agent.nodes(runs(node, "hung"))
    assert again(node).hung_at == hung.hung_at
    agent.nodes(runs(node))
    assert again(node).hung_at is None


def test_a_lost_node_that_still_runs_is_to_end_and_holds_its_device_until_then(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(runs(node))
    Host.objects.update(last_seen_at=timezone.now() - timedelta(hours=1))
    assert lose_silent_hosts(timezone.now()) == 1
    assert agent.nodes(runs(node)) == []
    assert again(node).state == NodeState.ENDED and again(node).holds_device
    assert ordered(agent.host).device != node.device
    agent.nodes()
    assert not again(node).holds_device
    assert ordered(agent.host).device == node.device


def test_an_agent_that_ends_takes_no_orders_and_drains_its_nodes(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(runs(node))
    agent.nodes(runs(node, "draining"), n_devices=0)
    assert again(node).state == NodeState.DRAINING
    agent.nodes(runs(node, "draining"), n_devices=0, ended=[{"node": str(node.pk), "reason": "it hung"}])
    assert (again(node).state, again(node).end_reason) == (NodeState.ENDED, "it hung")
    assert order(model=MODEL, device_class=agent.host.device_class, reason="a test") is None


# -- who may speak ----------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "gsh_", f"gsh_{'0' * 12}_{'0' * 64}", "gsr_" + "0" * 64])
def test_without_the_hosts_token_nothing_is_taken(agent: Agent, token: str) -> None:
    agent.token = token
    assert agent.say().status_code == 401


def test_a_revoked_token_opens_nothing_and_its_nodes_are_not_used(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(runs(node))
    revoke_host(actor=make_user(), name=agent.host.name, reason="stolen")
    assert agent.say(runs(node)).status_code == 401
    assert again(node).state == NodeState.ENDED


def test_the_newest_agent_speaks_and_the_older_one_is_told_to_end(agent: Agent) -> None:
    newer = Agent(agent.host, agent.token, devices=2)
    newer.nodes()
    for _ in range(2):  # repeating itself does not make it the newest again
        answer = agent.say()
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "superseded")
    assert newer.say().status_code == 200


def test_a_repeated_heartbeat_changes_nothing(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    old = agent.beats
    agent.nodes(runs(node))
    agent.beats = old - 1
    answer = agent.say(ended=[{"node": str(node.pk), "reason": "an old message"}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "stale_heartbeat")
    assert again(node).state == NodeState.READY


def test_an_agents_first_message_repeated_later_does_not_take_over(agent: Agent) -> None:
    newer = Agent(agent.host, agent.token, devices=2)
    newer.nodes()
    agent.beats = 0
    assert agent.say().status_code == 409
    assert Host.objects.get().agent == newer.id


def test_an_agent_of_one_host_cannot_use_the_id_of_anothers(agent: Agent) -> None:
    other = agent_of(make_host(agent.host.device_class, name="other", address=""), id=agent.id)
    assert other.say().status_code == 409
    assert agent.say().status_code == 200


def test_an_agent_that_cannot_live_is_slowed_down(agent: Agent) -> None:
    AgentStart.objects.bulk_create(AgentStart(id=uuid4(), host=agent.host) for _ in range(STARTS_PER_HOUR))
    answer = Agent(agent.host, agent.token, devices=2).say()
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_starts")
    assert agent.say().status_code == 200


# -- what it may say --------------------------------------------------------------------------------


def test_a_hosts_agent_changes_no_other_hosts_nodes(agent: Agent) -> None:
    other = agent_of(make_host(agent.host.device_class, name="aa-other", devices=2, address=""), devices=2)
    mine, its = ordered(agent.host), ordered(agent.host)
    if mine.host_id != agent.host.pk:
        mine, its = its, mine
    assert its.host_id == other.host.pk
    agent.nodes(runs(its, port=9999), ended=[{"node": str(its.pk), "reason": "not its own"}])
    assert (again(its).state, again(its).url, again(its).load) == (NodeState.STARTING, "", {})
    assert [told["node"] for told in agent.nodes()] == [str(mine.pk)]


def test_a_node_is_known_on_its_own_device_only(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes({**runs(node), "device": 1})
    assert again(node).state == NodeState.STARTING


@pytest.mark.parametrize("port", [22, 0, 80, 65536, "http://192.0.2.9:80", -1, 8200.5])
def test_a_port_is_a_port_of_users_programs(agent: Agent, port: Any) -> None:
    node = ordered(agent.host)
    agent.nodes()
    assert agent.say(runs(node, port=port)).status_code == 400
    assert again(node).url == ""


def test_an_agent_that_speaks_from_elsewhere_moves_no_traffic_there(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(runs(node))
    thief = Agent(agent.host, agent.token, devices=2, at="203.0.113.66")
    answer = thief.say(runs(node))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_address")
    assert again(node).url == f"http://{HERE}:8200"
    assert agent.say(runs(node)).status_code == 200  # nor is the true one superseded


def test_a_stated_address_is_used_wherever_the_agent_speaks_from(agent: Agent) -> None:
    Host.objects.update(allowed_address="2001:db8::7", address="")
    moved = Agent(agent.host, agent.token, devices=2, at="203.0.113.66")
    node = ordered(agent.host)
    moved.nodes()
    moved.nodes(runs(node))
    assert again(node).url == "http://[2001:db8::7]:8200"


@pytest.mark.parametrize("at", ["127.0.0.1", "::1", "", "0.0.0.0", "169.254.169.254", "224.0.0.1", "x"])
def test_an_address_that_may_be_a_proxys_has_to_be_stated(host: Host, at: str) -> None:
    answer = agent_of(host, devices=2, at=at).say()
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "address_needed")
    assert not AgentStart.objects.exists()


BAD_LOADS = [
    {"running": -1}, {"running": 10**30}, {"waiting": 1.5}, {"cache_use": 1.01}, {"cache_use": -0.1}, {"cache_use": "NaN"},
    {"cache_use": "inf"}, {"cache_use": None}, {"running": "many"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_LOADS, ids=str)
def test_an_impossible_load_is_refused(agent: Agent, wrong: dict[str, Any]) -> None:
    node = ordered(agent.host)
    agent.nodes()
    load = {"running": 0, "waiting": 0, "cache_use": 0.0, **wrong}
    assert agent.say(runs(node, load=load)).status_code == 400
    assert again(node).load == {}


def test_a_load_that_is_no_number_in_json_is_refused(agent: Agent) -> None:
    node = ordered(agent.host)
    report = runs(node, load={"running": 0, "waiting": 0, "cache_use": 7.25})
    body = {"agent": str(agent.id), "beat": 99, "n_devices": 1, "devices": [report]}
    for text in ("NaN", "Infinity", "1e999", "-1e999"):
        raw = json.dumps(body).replace("7.25", text)
        client = APIClient(REMOTE_ADDR=HERE)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {agent.token}")
        assert client.generic("POST", HEARTBEAT_PATH, raw, content_type="application/json").status_code == 400


def test_ten_thousand_nodes_are_refused(agent: Agent) -> None:
    many = [{"device": device, "node": str(uuid4()), "state": "ready"} for device in range(10_000)]
    assert agent.say(devices=many).status_code in (400, 413)
    assert agent.say(devices=many[:100]).status_code == 400
    assert agent.say(n_devices=MAX_DEVICES + 1).status_code == 400
    assert agent.say(devices=[free(0), free(0)]).status_code == 400
    assert agent.say(devices=[free(0)]).status_code == 400  # it says that it has two
    assert Node.objects.count() == 0


def test_a_long_body_is_refused_before_it_is_parsed(agent: Agent) -> None:
    assert agent.say(problem="x" * 70_000).status_code == 413
    assert agent.say(problem="x" * 301).status_code == 400


# -- silence, and leaving ---------------------------------------------------------------------------


def test_a_site_that_did_not_listen_loses_no_node(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    now = timezone.now()
    Host.objects.update(last_seen_at=now - timedelta(seconds=15), heard_since=now - timedelta(hours=1))
    assert lose_hosts(now) == 0
    agent.nodes(runs(node))
    assert lose_hosts(timezone.now()) == 0
    Host.objects.update(last_seen_at=now - timedelta(seconds=PATIENCE * 10 + 1))
    assert lose_hosts(now) == 1


def test_a_host_that_is_silent_while_another_is_heard_is_lost(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    now = timezone.now()
    silent = Host.objects.filter(pk=agent.host.pk)
    silent.update(last_seen_at=now - timedelta(seconds=15), heard_since=now - timedelta(hours=1))
    heard = make_host(agent.host.device_class, last_seen_at=now, heard_since=now - timedelta(seconds=5))
    assert (
        lose_hosts(now) == 0
    )  # the other one was heard again only a moment ago: the site may have been away
    Host.objects.filter(pk=heard.pk).update(heard_since=now - timedelta(seconds=11))
    assert lose_hosts(now) == 1
    assert again(node).holds_device


def test_a_notice_of_preemption_keeps_new_nodes_away_and_drains_the_others(agent: Agent) -> None:
    node = ordered(agent.host)
    agent.nodes()
    agent.nodes(runs(node), leaves_in_s=120)
    first = Host.objects.get().leaves_at
    assert first is not None
    assert order(model=MODEL, device_class=agent.host.device_class, reason="a test") is None
    agent.nodes(runs(node), leaves_in_s=600)
    assert Host.objects.get().leaves_at == first
    agent.nodes(runs(node))
    assert Host.objects.get().leaves_at == first
    assert drain_leaving(timezone.now()) == 0
    assert drain_leaving(first - timedelta(seconds=DRAIN_BEFORE_S)) == 1
    assert again(node).state == NodeState.DRAINING


def test_a_host_that_went_and_is_back_may_get_nodes_again(agent: Agent) -> None:
    Host.objects.update(leaves_at=timezone.now() - timedelta(seconds=1))
    agent.nodes()
    assert Host.objects.get().leaves_at is not None
    Agent(agent.host, agent.token, devices=2).nodes()
    assert Host.objects.get().leaves_at is None


def test_old_starts_are_forgotten_but_not_the_present_one(agent: Agent) -> None:
    Agent(agent.host, agent.token, devices=2).nodes()
    assert forget_starts(timezone.now()) == 0
    assert forget_starts(timezone.now() + timedelta(days=31)) == 1
    assert [start.pk for start in AgentStart.objects.all()] == [Host.objects.get().agent]


@pytest.mark.django_db(transaction=True)
@override_settings(HOST_LOST_S=60)
def test_two_agents_that_start_at_once_leave_one(host: Host) -> None:
    agents = [agent_of(host, devices=2)]
    agents += [Agent(host, agents[0].token, devices=2) for _ in range(3)]
    assert race(*(lambda a=a: a.say().status_code for a in agents)) == [200] * 4
    assert sorted(agent.say().status_code for agent in agents) == [200, 409, 409, 409]
