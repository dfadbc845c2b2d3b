"""Canaries: which host gets one, what it is told, and what happens when it fails, is lost or takes too long."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from pytest_django import Settings

from gainshare.capacity.agent.protocol import CanaryReport
from gainshare.capacity.deployments.canaries import MOST_TRIES, expected_order, fail, order_for, tend
from gainshare.capacity.deployments.errors import NotThisCanary
from gainshare.capacity.lengths import Lengths
from gainshare.capacity.models import Deployment, DeploymentState, Host
from tests.gainshare.capacity.deployments import deployments_world
from tests.gainshare.capacity.deployments.deployments_world import (
    NEW,
    NEWER,
    Machine,
    a_pool,
    again,
    ago,
    ask,
    deploy,
    end,
    live,
    machine,
    ready_node,
)
from tests.gainshare.capacity.pool_world import make_class

pytestmark = pytest.mark.django_db


@pytest.fixture
def at() -> Machine:
    made = a_pool()
    ready_node(made.host)
    return made


def test_the_host_is_told_trees_shapes_and_a_new_nonce(at: Machine) -> None:
    deployment = ask(quality_margin_ppm=500)
    order = at.order()
    assert (order.id, order.model, order.served, order.candidate, order.best) == (
        deployment.pk,
        "tiny",
        "",
        NEW,
        "",
    )
    assert len(bytes.fromhex(order.nonce)) == 32 and order.plan.quality_margin_ppm == 500
    begun = again(deployment)
    assert (begun.state, begun.host, begun.tries) == (DeploymentState.CANARY, at.host, 1)
    assert "shipped lengths: 0 accounts" in begun.plan["shapes_source"]
    assert at.order() == order == expected_order(begun)  # an answer may be lost


def test_shapes_come_from_usage(at: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments_world, "LENGTHS", [Lengths(account, 77, 0, 11) for account in range(5)])
    deployment = ask()
    assert {(shape.prompt_tokens, shape.output_tokens) for shape in at.order().plan.shapes} == {(77, 11)}
    assert "usage of 5 accounts" in again(deployment).plan["shapes_source"]


def test_a_host_that_serves_the_model_is_preferred(at: Machine) -> None:
    idle = machine(at.host.device_class)
    ask()
    assert order_for(idle.row, None) is None
    end(live()[0])
    assert idle.order().candidate == NEW
    assert order_for(at.row, None) is None  # one host has it


@pytest.mark.parametrize(
    "unfit",
    [{"public_key": ""}, {"n_devices": 0}, {"leaves_at": timezone.now() + timedelta(hours=1)}],
    ids=lambda unfit: next(iter(unfit)),
)
def test_a_host_without_a_key_or_about_to_go_gets_none(at: Machine, unfit: dict[str, object]) -> None:
    Host.objects.update(**unfit)
    ask()
    assert order_for(at.row, None) is None


def test_a_host_of_another_class_gets_none(at: Machine) -> None:
    other = machine(make_class("h100"))
    end(live()[0])
    ask()
    assert order_for(other.row, None) is None


def test_progress_is_shown_as_the_agent_says_and_safe_to_show(at: Machine) -> None:
    deployment = ask()
    at.order()
    order_for(at.row, CanaryReport(deployment.pk, "decode at 4: 6 of 30 pairs\x1b[2J"))
    said = again(deployment).progress
    assert said.startswith("decode at 4: 6 of 30 pairs") and "\x1b" not in said
    order_for(at.row, CanaryReport(uuid4(), "another one"))
    assert again(deployment).progress == said


def test_a_canary_that_fails_is_begun_again_twice_with_another_nonce(at: Machine) -> None:
    deployment = ask()
    nonces = set()
    for _ in range(MOST_TRIES):
        nonces.add(at.order().nonce)
        fail(host=at.row, deployment_id=deployment.pk, reason="no space left")
    failed = again(deployment)
    assert len(nonces) == MOST_TRIES
    assert (failed.state, failed.ended_at is not None) == (DeploymentState.FAILED, True)
    assert "no space left" in failed.why and order_for(at.row, None) is None
    with pytest.raises(NotThisCanary):
        fail(host=at.row, deployment_id=deployment.pk, reason="again")
    assert ask().pk != deployment.pk  # it says nothing of the tree


def test_a_tree_that_does_not_build_is_refused_at_once(at: Machine) -> None:
    deployment = ask()
    at.order()
    ended = fail(
        host=at.row, deployment_id=deployment.pk, reason="it does not build: \x1b[2Jx", is_of_tree=True
    )
    assert (ended.state, ended.ended_at is not None, ended.tries) == (DeploymentState.REFUSED, True, 1)
    assert at.row.name in ended.why and "does not build" in ended.why and "\x1b" not in ended.why
    assert order_for(at.row, None) is None
    with pytest.raises(NotThisCanary):
        fail(host=at.row, deployment_id=deployment.pk, reason="again", is_of_tree=True)


def test_another_hosts_word_ends_no_canary(at: Machine) -> None:
    deployment = ask()
    at.order()
    with pytest.raises(NotThisCanary):
        fail(
            host=machine(at.host.device_class).row,
            deployment_id=deployment.pk,
            reason="broken",
            is_of_tree=True,
        )
    assert again(deployment).state == DeploymentState.CANARY


def test_a_lost_host_gives_its_canary_to_another_one(at: Machine, settings: Settings) -> None:
    deployment = ask()
    at.order()
    Host.objects.update(last_seen_at=ago(seconds=settings.HOST_LOST_S + 20), heard_since=ago(hours=1))
    assert tend(timezone.now()) == 0  # no host at all is heard: the silence may be the site's
    other = machine(at.host.device_class, heard_since=ago(hours=1))
    assert tend(timezone.now()) == 1
    waiting = again(deployment)
    assert (waiting.state, waiting.host) == (DeploymentState.REQUESTED, None) and "silent" in waiting.progress
    assert other.order().id == deployment.pk


def test_a_revoked_host_and_one_that_takes_too_long_lose_it(at: Machine, settings: Settings) -> None:
    deployment = ask()
    at.order()
    assert tend(timezone.now() + timedelta(seconds=5)) == 0
    Deployment.objects.update(canary_at=ago(seconds=settings.CANARY_LIMIT_S + 1))
    assert tend(timezone.now()) == 1 and "not done after" in again(deployment).progress
    at.order()
    Host.objects.update(revoked_at=timezone.now())
    assert tend(timezone.now()) == 1 and "revoked" in again(deployment).progress


def test_the_next_canary_compares_with_what_serves_and_with_the_best(at: Machine) -> None:
    deploy(at)
    ask(NEWER)
    order = at.order()
    assert (order.served, order.best) == (NEW, NEW)
    deploy(at, NEWER, decode=1.0)  # no cheaper than the best, and it serves all the same
    ask("3d" * 32)
    order = at.order()
    assert (order.served, order.best) == (NEWER, NEW)
