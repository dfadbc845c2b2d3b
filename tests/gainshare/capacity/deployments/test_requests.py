"""Asking for a deployment: who may, once for a tree, one at a time, and the very first one."""

import pytest
from django.utils import timezone

from gainshare.capacity.deployments.errors import DeploymentUnderWay
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.deployments.serving import ordered_tree, serving_tree
from gainshare.capacity.errors import CapacityError, NotAllowed, NotFound
from gainshare.capacity.models import Deployment, DeploymentState, NodeState, ScalingState, ServedModel
from gainshare.capacity.scaling.loop import scale
from tests.gainshare.capacity.deployments.deployments_world import (
    MODEL,
    NEW,
    NEWER,
    a_pool,
    again,
    ask,
    deploy,
    end,
    live,
    make_ready,
    node_on,
    ready_node,
    serve,
)
from tests.gainshare.capacity.pool_world import make_user, race

pytestmark = pytest.mark.django_db


def test_a_tree_waits_for_its_canary_when_something_serves() -> None:
    at = a_pool()
    ready_node(at.host)
    deployment = ask()
    assert (deployment.state, deployment.is_first) == (DeploymentState.REQUESTED, False)
    assert (deployment.before, deployment.requested_by) == (None, None)
    assert ask().pk == deployment.pk and Deployment.objects.count() == 1
    with pytest.raises(DeploymentUnderWay, match=str(deployment.pk)):
        ask(NEWER)


def test_a_tree_that_serves_is_not_deployed_again() -> None:
    at = a_pool()
    ready_node(at.host)
    serving = deploy(at)
    assert ask().pk == serving.pk
    assert ask(NEWER).before == serving


@pytest.mark.parametrize("role", ["contributor"])
def test_people_must_be_maintainers(role: str) -> None:
    serve()
    with pytest.raises(NotAllowed, match="maintainers"):
        ask(actor=make_user(role))
    assert not Deployment.objects.exists()
    asked_by = make_user()
    assert ask(actor=asked_by).requested_by == asked_by


@pytest.mark.parametrize("tree", ["", "ab", "AB" * 32, "../" + "0" * 61, "0" * 65, "0" * 64 + "\n"])
def test_a_tree_is_named_by_its_hash(tree: str) -> None:
    serve()
    with pytest.raises(CapacityError, match="64 hexadecimal"):
        ask(tree)


def test_a_model_that_is_not_served_and_a_wrong_margin_are_refused() -> None:
    serve()
    with pytest.raises(NotFound, match=MODEL):
        ask(model="unknown")
    with pytest.raises(CapacityError, match="margin"):
        ask(quality_margin_ppm=-1)


@pytest.mark.django_db(transaction=True)
def test_requests_at_one_moment_make_one_deployment() -> None:
    at = a_pool()
    ready_node(at.host)
    found = race(*[lambda: ask().pk] * 4)
    assert len(set(found)) == 1 and Deployment.objects.count() == 1


# -- the first one --------------------------------------------------------------------------------


def test_a_first_deployment_starts_with_scalings_nodes_and_serves_when_one_is_ready() -> None:
    at = a_pool()
    first = ask()
    assert (first.state, first.is_first) == (DeploymentState.STARTING, True)
    assert (serving_tree(MODEL), ordered_tree(MODEL)) == ("", NEW)
    scale(ServedModel.objects.get().pk, timezone.now())
    (node,) = live()
    assert node.tree == NEW and node.host == at.host
    assert not advance(MODEL)
    make_ready(node)
    assert advance(MODEL)
    assert again(first).state == DeploymentState.SERVING and serving_tree(MODEL) == NEW
    assert live(state=NodeState.READY) == [node]


def test_a_first_deployment_takes_the_place_of_a_node_that_was_never_ready() -> None:
    at = a_pool(devices=1)
    early = node_on(at.host)
    ask()
    early.refresh_from_db()
    assert early.state == NodeState.ENDED
    scale(ServedModel.objects.get().pk, timezone.now())
    assert [node.tree for node in live()] == [NEW]


def test_a_first_deployment_serves_at_once_where_no_node_is_wanted() -> None:
    served = serve(fixed_nodes=0)
    ScalingState.objects.create(served=served, wanted={"cpu-small": 0})
    assert ask().state == DeploymentState.SERVING


def test_a_first_tree_that_does_not_start_leaves_the_installed_one() -> None:
    a_pool(devices=1)
    first = ask()
    for _ in range(2):
        scale(ServedModel.objects.get().pk, timezone.now())
        (node,) = live()
        end(node)
    assert advance(MODEL)
    failed = again(first)
    assert failed.state == DeploymentState.FAILED and "ended before it was ready" in failed.why
    assert ordered_tree(MODEL) == serving_tree(MODEL) == ""


def test_after_a_first_one_that_served_there_is_no_second_first() -> None:
    a_pool()
    ask()
    scale(ServedModel.objects.get().pk, timezone.now())
    make_ready(*live())
    advance(MODEL)
    assert ask(NEWER).state == DeploymentState.REQUESTED
