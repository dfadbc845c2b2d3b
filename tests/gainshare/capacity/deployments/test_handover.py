"""Handover: successors in the other berth, one switch, drains; and what routing and scaling see meanwhile."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from pytest_django import Settings

from gainshare.capacity.deployments.handover import advance, drain_strays, switch
from gainshare.capacity.deployments.serving import ordered_tree, serving_tree, serving_trees
from gainshare.capacity.hosts.nodes import order_beside
from gainshare.capacity.models import (
    Deployment,
    DeploymentState,
    DeviceLoan,
    Host,
    Node,
    NodeState,
    ServedModel,
)
from gainshare.capacity.routing.exchange import EPOCH, exchange
from gainshare.capacity.routing.outbox import Outbox
from gainshare.capacity.scaling.loop import scale
from gainshare.capacity.scaling.observe import observe
from tests.gainshare.capacity.deployments.deployments_world import (
    MODEL,
    NEW,
    NEWER,
    Machine,
    a_pool,
    again,
    ask,
    canary,
    deploy,
    end,
    live,
    machine,
    make_ready,
    node_on,
    ready_node,
)
from tests.gainshare.capacity.pool_world import race

pytestmark = pytest.mark.django_db


@pytest.fixture
def at() -> Machine:
    return a_pool(devices=2)


def routed() -> dict[str, str]:
    """What web processes read: the state of each node, by its id."""
    view = exchange(process=uuid4(), outbox=Outbox(), blocks_since=EPOCH)
    return {node.key: str(node.state) for node in view.nodes}


def states(*nodes: Node) -> list[str]:
    return [str(Node.objects.get(pk=node.pk).state) for node in nodes]


def test_traffic_moves_when_all_successors_are_ready_and_never_before(at: Machine) -> None:
    old = [ready_node(at.host), ready_node(at.host)]
    deployment = canary(at, ask())
    new = live(NEW)
    assert sorted((node.device, node.berth) for node in new) == [(0, 1), (1, 1)]
    assert "deployment of" in new[0].reason
    make_ready(new[0])
    assert not advance(MODEL)
    assert serving_tree(MODEL) == ""
    assert routed() == {str(old[0].pk): "ready", str(old[1].pk): "ready", str(new[0].pk): "draining"}
    make_ready(new[1])
    assert advance(MODEL)
    assert again(deployment).state == DeploymentState.SERVING and serving_trees() == {MODEL: NEW}
    assert states(*old) == ["draining"] * 2 and states(*new) == ["ready"] * 2
    assert [routed()[str(node.pk)] for node in (*old, *new)] == ["draining"] * 2 + ["ready"] * 2
    assert not advance(MODEL)


def test_repeating_it_orders_no_second_successor(at: Machine) -> None:
    ready_node(at.host)
    canary(at, ask())
    for _ in range(3):
        advance(MODEL)
    assert len(live(NEW)) == 1


def test_the_next_deployment_supersedes_it_in_the_first_berth(at: Machine) -> None:
    ready_node(at.host)
    first = deploy(at)
    second = deploy(at, NEWER)
    assert [again(one).state for one in (first, second)] == [
        DeploymentState.SUPERSEDED,
        DeploymentState.SERVING,
    ]
    assert second.before == first and again(first).ended_at is not None
    (node,) = live(state=NodeState.READY)
    assert (node.tree, node.berth) == (NEWER, 0)


def test_a_berth_that_still_drains_is_waited_for(at: Machine) -> None:
    old = ready_node(at.host)
    canary(at, ask())
    make_ready(*live(NEW))
    advance(MODEL)
    canary(at, ask(NEWER))
    assert live(NEWER) == []
    end(old)
    advance(MODEL)
    assert [node.berth for node in live(NEWER)] == [0]


def test_scaling_counts_and_orders_the_serving_tree_only(at: Machine) -> None:
    served = ServedModel.objects.get()
    ready_node(at.host)
    canary(at, ask())
    now = timezone.now()
    assert observe(served, now).fleets["cpu-small"].ready == 1
    assert observe(served, now).fleets["cpu-small"].starting == 0
    scale(served.pk, now)
    assert [node.tree for node in live(state=NodeState.READY)] == [""] and len(live(NEW)) == 1
    ServedModel.objects.update(fixed_nodes=2)
    scale(served.pk, now)
    assert sorted(node.tree for node in live()) == [
        "",
        "",
        NEW,
    ]  # the handover gives it a successor when it is ready
    make_ready(*live())
    advance(MODEL)
    make_ready(*live(NEW))
    assert advance(MODEL)
    scale(served.pk, now)
    assert len(live(NEW, NodeState.READY)) == 2 and live("", NodeState.READY) == []


def test_an_order_that_came_before_the_switch_and_is_ready_after_it_drains(at: Machine) -> None:
    ready_node(at.host)
    late = node_on(at.host)
    Node.objects.filter(pk=late.pk).update(told_at=timezone.now())
    canary(at, ask())
    make_ready(*live(NEW))
    advance(MODEL)
    Node.objects.filter(pk=late.pk).update(state=NodeState.READY, url="http://192.0.2.7:9009")
    assert routed()[str(late.pk)] == "draining"
    assert drain_strays(MODEL) == 1
    assert states(late) == ["draining"]


def test_a_successor_that_ends_twice_fails_the_deployment_and_the_old_tree_goes_on(at: Machine) -> None:
    old = [ready_node(at.host), ready_node(at.host)]
    deployment = canary(at, ask())
    other = next(node for node in live(NEW) if node.device == 1)
    for _ in range(2):
        end(next(node for node in live(NEW) if node.device == 0))
        advance(MODEL)
    failed = again(deployment)
    assert (failed.state, "ended before it was ready 2 times" in failed.why) == (DeploymentState.FAILED, True)
    assert states(*old) == ["ready"] * 2 and serving_tree(MODEL) == ""
    assert states(other) == ["ended"]  # no agent had been told


def test_a_lost_host_is_no_failed_start(at: Machine) -> None:
    ready_node(at.host)
    deployment = canary(at, ask())
    for _ in range(3):
        end(live(NEW)[0], reason="its host was silent for 10 s")
        advance(MODEL)
    assert again(deployment).state == DeploymentState.STARTING and len(live(NEW)) == 1


def test_it_is_given_up_after_the_limit(at: Machine, settings: Settings) -> None:
    ready_node(at.host)
    deployment = canary(at, ask())
    late = timezone.now() + timedelta(seconds=settings.HANDOVER_LIMIT_S + 1)
    Host.objects.update(last_seen_at=late)
    assert advance(MODEL, late)
    assert again(deployment).state == DeploymentState.FAILED
    assert live(NEW) == []


def test_a_leaving_host_keeps_no_deployment_waiting(at: Machine) -> None:
    ready_node(at.host)
    leaving = machine(at.host.device_class)
    ready_node(leaving.host)
    canary(at, ask())
    assert len(live(NEW)) == 2
    Host.objects.filter(pk=leaving.host.pk).update(leaves_at=timezone.now() + timedelta(hours=1))
    make_ready(*Node.objects.filter(tree=NEW, host=at.host))
    assert advance(MODEL)


def test_the_second_berth_is_for_a_successor_only_where_it_is_free(at: Machine) -> None:
    node = ready_node(at.host)
    first = order_beside(node_id=node.pk, tree=NEW, reason="a test")
    assert first is not None and first.berth == 1
    assert order_beside(node_id=node.pk, tree=NEW, reason="again") is None
    end(first)
    Node.objects.filter(pk=first.pk).update(holds_device=True)
    assert order_beside(node_id=node.pk, tree=NEW, reason="it may still run") is None
    Node.objects.filter(pk=first.pk).update(holds_device=False)
    Host.objects.update(n_devices=0)
    assert order_beside(node_id=node.pk, tree=NEW, reason="no device") is None
    end(node)
    Host.objects.update(n_devices=2)
    assert order_beside(node_id=node.pk, tree=NEW, reason="nothing to follow") is None


def test_a_device_with_a_node_in_any_berth_is_not_free_nor_lent(at: Machine) -> None:
    node = ready_node(at.host)
    successor = order_beside(node_id=node.pk, tree=NEW, reason="a test")
    assert successor is not None
    end(node)
    assert node_on(at.host).device == 1
    with pytest.raises(Exception, match="a node is on the device"):
        DeviceLoan.objects.create(host=at.host, device=0, reason="a test", state="taken", borrower=uuid4(), taken_at=timezone.now(), expires_at=timezone.now())  # fmt: skip


def test_ordered_and_serving_tree_are_the_installed_one_without_a_deployment(at: Machine) -> None:
    assert (ordered_tree(MODEL), serving_tree(MODEL), serving_trees()) == ("", "", {})


@pytest.mark.django_db(transaction=True)
def test_at_one_moment_it_switches_once_and_orders_once(at: Machine) -> None:
    ready_node(at.host)
    deployment = canary(at, ask())
    Node.objects.filter(tree=NEW).delete()
    race(*[lambda: advance(MODEL)] * 4)
    assert len(live(NEW)) == 1
    make_ready(*live(NEW))
    now = timezone.now()
    assert sorted(race(*[lambda: switch(again(deployment), now)] * 4)) == [False] * 3 + [True]
    assert Deployment.objects.get().state == DeploymentState.SERVING
