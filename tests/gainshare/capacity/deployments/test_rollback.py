"""Rollback: what it puts back, twice in a row, while something is under way, and who may."""

import pytest

from gainshare.capacity.deployments.canaries import order_for
from gainshare.capacity.deployments.errors import NothingBefore
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.deployments.prices import best_tree
from gainshare.capacity.deployments.rollback import roll_back
from gainshare.capacity.deployments.serving import serving_tree
from gainshare.capacity.errors import NotAllowed
from gainshare.capacity.models import Deployment, DeploymentState, NodeState
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
    make_ready,
    ready_node,
)
from tests.gainshare.capacity.pool_world import make_user, race

pytestmark = pytest.mark.django_db


@pytest.fixture
def at() -> Machine:
    made = a_pool()
    ready_node(made.host)
    return made


def put_back(reason: str = "it is slow") -> Deployment:
    """A whole rollback to its end."""
    made = roll_back(model=MODEL, actor=None, reason=reason)
    make_ready(*live(made.tree))
    advance(MODEL)
    for node in live(state=NodeState.DRAINING):
        end(node)
    return again(made)


def test_the_tree_before_starts_without_a_canary_and_takes_over(at: Machine) -> None:
    first, second = deploy(at), deploy(at, NEWER)
    made = roll_back(model=MODEL, actor=None, reason="it is slow")
    assert (made.state, made.tree, made.before, made.is_rollback) == (
        DeploymentState.STARTING,
        NEW,
        first,
        True,
    )
    assert serving_tree(MODEL) == NEWER and order_for(at.row, None) is None
    (successor,) = live(NEW)
    make_ready(successor)
    advance(MODEL)
    assert serving_tree(MODEL) == NEW
    gone = again(second)
    assert (gone.state, gone.why) == (DeploymentState.ROLLED_BACK, "it is slow")
    assert again(first).state == DeploymentState.SUPERSEDED
    assert best_tree(MODEL) == NEW


def test_the_installed_tree_is_put_back_where_nothing_else_served(at: Machine) -> None:
    deployed = deploy(at)
    back = put_back()
    assert (back.tree, back.before, back.state) == ("", None, DeploymentState.SERVING)
    assert again(deployed).state == DeploymentState.ROLLED_BACK and best_tree(MODEL) == ""
    with pytest.raises(NothingBefore, match="installed"):
        roll_back(model=MODEL, actor=None, reason="once more")


def test_a_second_rollback_goes_one_further_back_and_both_trees_count_as_rolled_back(at: Machine) -> None:
    rows = [deploy(at), deploy(at, NEWER), deploy(at, "3d" * 32)]
    assert put_back().tree == NEWER
    assert put_back().tree == NEW
    assert [again(row).state for row in rows] == [
        DeploymentState.SUPERSEDED,
        DeploymentState.ROLLED_BACK,
        DeploymentState.ROLLED_BACK,
    ]
    assert best_tree(MODEL) == NEW
    assert put_back().tree == ""


def test_after_a_rollback_another_tree_is_compared_with_what_serves(at: Machine) -> None:
    deploy(at)
    deploy(at, NEWER)
    put_back()
    ask("3d" * 32)
    order = at.order()
    assert (order.served, order.best) == (NEW, NEW)


def test_what_is_under_way_ends_and_is_not_refused(at: Machine) -> None:
    deploy(at)
    trying = canary(at, ask(NEWER))
    make_ready(*live(NEWER))
    made = roll_back(model=MODEL, actor=None, reason="it fails")
    ended = again(trying)
    assert (ended.state, ended.why) == (DeploymentState.FAILED, "a rollback was asked for")
    assert [node.state for node in live(NEWER)] == [NodeState.DRAINING]
    assert roll_back(model=MODEL, actor=None, reason="again").pk == made.pk
    for node in live(NEWER):
        end(node)
    advance(MODEL)
    make_ready(*live(""))
    assert advance(MODEL) and serving_tree(MODEL) == ""


def test_a_first_deployment_that_does_not_start_can_be_called_off() -> None:
    a_pool()
    first = ask()
    assert roll_back(model=MODEL, actor=make_user(), reason="not yet").pk == first.pk
    assert again(first).state == DeploymentState.FAILED


def test_people_must_be_maintainers(at: Machine) -> None:
    deploy(at)
    with pytest.raises(NotAllowed):
        roll_back(model=MODEL, actor=make_user("contributor"), reason="mine is better")
    actor = make_user()
    assert roll_back(model=MODEL, actor=actor, reason="slow").requested_by == actor


def test_without_a_deployment_nothing_is_put_back(at: Machine) -> None:
    with pytest.raises(NothingBefore):
        roll_back(model=MODEL, actor=None, reason="why not")


@pytest.mark.django_db(transaction=True)
def test_rollbacks_at_one_moment_are_one(at: Machine) -> None:
    deploy(at)
    found = race(*[lambda: roll_back(model=MODEL, actor=None, reason="slow").pk] * 4)
    assert len(set(found)) == 1
    assert Deployment.objects.filter(is_rollback=True).count() == 1
