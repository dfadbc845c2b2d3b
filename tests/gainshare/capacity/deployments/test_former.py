"""The tree before is kept for a day by one node, which takes no device for itself and stands in no one's way."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from pytest_django import Settings

from gainshare.capacity.deployments.former import former_trees, kept_node
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.deployments.rollback import roll_back
from gainshare.capacity.models import Deployment, Node, NodeState
from gainshare.capacity.routing.exchange import EPOCH, PoolNode, exchange
from gainshare.capacity.routing.outbox import Outbox
from tests.gainshare.capacity.deployments.deployments_world import (
    MODEL,
    NEW,
    NEWER,
    Machine,
    a_pool,
    ask,
    canary,
    end,
    live,
    make_ready,
    ready_node,
)

pytestmark = pytest.mark.django_db
DAY_S = 86_400


@pytest.fixture
def at(settings: Settings) -> Machine:
    settings.FORMER_TREE_S = DAY_S
    made = a_pool(devices=2)
    ready_node(made.host)
    ready_node(made.host)
    return made


def routed() -> dict[str, PoolNode]:
    view = exchange(process=uuid4(), outbox=Outbox(), blocks_since=EPOCH)
    return {node.key: node for node in view.nodes}


def handed_over(at: Machine, tree: str = NEW) -> Deployment:
    """Deploy a tree; nodes that drained before are gone."""
    deployment = canary(at, ask(tree))
    for node in live(state=NodeState.DRAINING):
        end(node)
    advance(MODEL)
    make_ready(*live(tree))
    advance(MODEL)
    return Deployment.objects.get(pk=deployment.pk)


def test_one_node_keeps_the_tree_before_for_requests_that_name_it(at: Machine) -> None:
    first, second = live()
    handed_over(at)
    assert kept_node(MODEL, timezone.now()) == first.pk
    states = {node.pk: node.state for node in Node.objects.filter(tree="")}
    assert states == {first.pk: NodeState.READY, second.pk: NodeState.DRAINING}
    seen = routed()
    assert (seen[str(first.pk)].state, seen[str(first.pk)].is_former) == (NodeState.READY, True)
    assert all(not seen[str(node.pk)].is_former for node in live(NEW))
    advance(MODEL)
    assert Node.objects.get(pk=first.pk).state == NodeState.READY  # beat does not drain it


def test_it_goes_after_a_day(at: Machine) -> None:
    first, _ = live()
    made = handed_over(at)
    Deployment.objects.filter(pk=made.pk).update(serving_at=timezone.now() - timedelta(seconds=DAY_S + 1))
    assert former_trees(timezone.now()) == {}
    assert routed()[str(first.pk)].state == NodeState.DRAINING
    advance(MODEL)
    assert Node.objects.get(pk=first.pk).state == NodeState.DRAINING


def test_the_next_deployment_gets_its_berth(at: Machine) -> None:
    first, _ = live()
    handed_over(at)
    ask(NEWER)
    assert Node.objects.get(pk=first.pk).state == NodeState.DRAINING
    Deployment.objects.filter(tree=NEWER).delete()
    assert handed_over(at, NEWER).state == "serving"


def test_a_tree_that_was_rolled_back_is_not_kept(at: Machine) -> None:
    handed_over(at)
    bad = live(NEW)
    for node in live(state=NodeState.DRAINING):
        end(node)
    roll_back(model=MODEL, actor=None, reason="requests fail")
    for node in live(state=NodeState.DRAINING):
        end(node)
    advance(MODEL)
    make_ready(*live(""))
    advance(MODEL)
    assert former_trees(timezone.now()) == {}
    assert {Node.objects.get(pk=node.pk).state for node in bad} == {NodeState.DRAINING}


def test_a_device_is_never_kept_for_the_tree_before_alone(at: Machine) -> None:
    """Where no node of the serving tree is beside it, it is one more device to pay for."""
    first, second = live()
    handed_over(at)
    beside = next(node for node in live(NEW) if node.device == first.device)
    end(beside)
    assert kept_node(MODEL, timezone.now()) != first.pk
    advance(MODEL)
    assert Node.objects.get(pk=first.pk).state == NodeState.DRAINING
    assert Node.objects.get(pk=second.pk).state == NodeState.DRAINING
