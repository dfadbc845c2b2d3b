"""Silent hosts: the site asks their nodes whether it is the host that is gone, or the site that did not listen."""

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID, uuid4

import pytest
from django.utils import timezone
from pytest_django import Settings

from gainshare.capacity.hosts import silence
from gainshare.capacity.hosts.silence import PATIENCE, lose_hosts
from gainshare.capacity.hosts.tokens import node_token
from gainshare.capacity.models import Host, Node, NodeState
from gainshare.capacity.routing.exchange import EPOCH, exchange
from gainshare.capacity.routing.outbox import Outbox
from gainshare.capacity.scaling.observe import fleet_of
from gainshare.local.ports import free_port
from tests.gainshare.capacity.pool_world import MODEL, again, make_class, make_host
from tests.http_servers import serving

pytestmark = pytest.mark.django_db


class StandIn(ThreadingHTTPServer):
    """A node on this machine that tells its health to whoever has its token; `drips` answers without ever ending."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.token, self.status, self.drips = "", "ok", False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == f"Bearer {self.server.token}"
        self.send_response(200 if is_known else 401)
        self.end_headers()
        with suppress(OSError):
            while self.server.drips:
                self.wfile.write(b" ")
                time.sleep(0.05)
            self.wfile.write(b'{"status": "%s"}' % self.server.status.encode())

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    with serving(server):
        yield server
        server.drips = False


def node_of(host: Host, url: str, state: str = NodeState.READY) -> Node:
    return host.nodes.create(
        device=0, model=MODEL, state=state, reason="a test", url=url, told_at=timezone.now()
    )


def answering(host: Host, server: StandIn) -> Node:
    node = node_of(host, server.url)
    server.token = node_token(node.pk)
    return node


def gone(host: Host) -> Node:
    """A node at a port where nothing listens."""
    return node_of(host, f"http://127.0.0.1:{free_port()}")


def silent(host: Host, seconds: int) -> None:
    now = timezone.now()
    Host.objects.filter(pk=host.pk).update(
        last_seen_at=now - timedelta(seconds=seconds), heard_since=now - timedelta(hours=1)
    )


def routed() -> list[UUID]:
    """The nodes that a web process gives requests to."""
    view = exchange(process=uuid4(), outbox=Outbox(), blocks_since=EPOCH)
    return [node.id for node in view.nodes if node.state == NodeState.READY]


def test_the_only_host_is_out_within_seconds_and_comes_back_without_another_start() -> None:
    host = make_host(make_class())
    node = gone(host)
    assert routed() == [node.pk]
    silent(host, 11)
    assert lose_hosts(timezone.now()) == 0
    found = again(node)
    assert (found.state, found.hung_at is not None) == (NodeState.READY, True)
    assert routed() == []
    assert fleet_of([found], "cpu-small").ready == 0  # so scaling replaces it
    since = found.hung_at
    assert lose_hosts(timezone.now()) == 0
    assert again(node).hung_at == since
    silent(host, PATIENCE * 10 + 1)
    assert lose_hosts(timezone.now()) == 1
    assert (again(node).state, again(node).holds_device) == (NodeState.ENDED, True)


def test_a_node_that_answers_goes_on_however_long_the_site_was_away(stand_in: StandIn) -> None:
    host = make_host(make_class())
    node = answering(host, stand_in)
    for seconds in (11, PATIENCE * 10 + 1, 86_400):
        silent(host, seconds)
        assert lose_hosts(timezone.now()) == 0
        assert routed() == [node.pk]


def test_a_node_that_answers_again_gets_requests_again(stand_in: StandIn) -> None:
    host = make_host(make_class())
    node = answering(host, stand_in)
    silent(host, 11)
    stand_in.status = "failed"
    assert lose_hosts(timezone.now()) == 0
    assert routed() == []
    stand_in.status = "ok"
    assert lose_hosts(timezone.now()) == 0
    assert routed() == [node.pk]


def test_another_server_at_the_nodes_port_is_not_the_node(stand_in: StandIn) -> None:
    host = make_host(make_class())
    node = answering(host, stand_in)
    stand_in.token = node_token(uuid4())
    silent(host, 11)
    lose_hosts(timezone.now())
    assert again(node).hung_at is not None


def test_a_node_that_drips_its_answer_holds_up_nothing(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "ASK_S", 0.5)
    host = make_host(make_class())
    node = answering(host, stand_in)
    stand_in.drips = True
    silent(host, 11)
    began = time.monotonic()
    lose_hosts(timezone.now())
    assert time.monotonic() - began < 10
    assert again(node).hung_at is not None


def test_nodes_that_start_or_drain_on_a_silent_host_end_after_all(stand_in: StandIn) -> None:
    host = make_host(make_class(), devices=2)
    draining = answering(host, stand_in)
    Node.objects.filter(pk=draining.pk).update(state=NodeState.DRAINING)
    host.nodes.create(device=1, model=MODEL, reason="a test", told_at=timezone.now())
    silent(host, 11)
    assert lose_hosts(timezone.now()) == 0
    silent(host, PATIENCE * 10 + 1)
    assert lose_hosts(timezone.now()) == 2


def test_a_host_that_speaks_while_its_node_is_asked_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host(make_class())
    node = gone(host)
    silent(host, 11)
    asked = silence.ask

    def speaks_meanwhile(nodes: list[tuple[UUID, str]]) -> set[UUID]:
        found = asked(nodes)
        Host.objects.update(last_seen_at=timezone.now())
        return found

    monkeypatch.setattr(silence, "ask", speaks_meanwhile)
    assert lose_hosts(timezone.now()) == 0
    assert again(node).hung_at is None


def test_a_host_is_lost_at_once_while_another_is_heard(settings: Settings) -> None:
    host = make_host(make_class())
    node = gone(host)
    heard = make_host(host.device_class)
    Host.objects.filter(pk=heard.pk).update(heard_since=timezone.now() - timedelta(minutes=1))
    silent(host, settings.HOST_LOST_S + 1)
    assert lose_hosts(timezone.now()) == 1
    assert again(node).state == NodeState.ENDED
