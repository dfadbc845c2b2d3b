"""A real agent and real sandboxed nodes: from an order to a ready node, to its end."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.live_server_helper import LiveServer

from gainshare.capacity.hosts.nodes import drain
from gainshare.capacity.models import Host, NodeState
from tests.gainshare.capacity.agent.agent_world import AgentProcess, ask, make_agent, place, reached

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sandbox, pytest.mark.slow]


@pytest.fixture
def agent(live_server: LiveServer, open_folder: Path) -> Iterator[AgentProcess]:
    made, _ = make_agent(live_server.url, open_folder)
    yield made
    made.close()


def test_an_ordered_node_answers_and_drains(agent: AgentProcess) -> None:
    agent.start()
    node = place()
    ready = reached(node, NodeState.READY)
    print(agent.said)
    assert ask(ready, "v1/completions", prompt="hello", max_tokens=4).json()["usage"]["completion_tokens"] == 4
    assert drain(node_id=node.pk, reason="the trough")
    gone = reached(node, NodeState.ENDED, 60)
    print(agent.said)
    assert gone.end_reason == "the trough"
    assert agent.device().is_free()
    assert Host.objects.get().version
