"""Hosts of a Ray cluster, from the cluster's word about its actors: which are replaced, which stay, which are stopped."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from gainshare.capacity.models import EngineHost, Host, Node, NodeState, ServedModel
from gainshare.capacity.scaling.actuators import ray_failures
from gainshare.capacity.scaling.actuators.interface import Plan
from gainshare.capacity.scaling.actuators.ray_cluster import RayActuator, heard, hosts_of, told_to
from gainshare.capacity.scaling.actuators.ray_failures import UNSEEN_S, paused_until
from tests.gainshare.capacity.scaling.scaling_world import MODEL, live, make_class, serve

pytestmark = pytest.mark.django_db

QUIET: dict[str, Any] = {"start": [], "stop": []}


@pytest.fixture
def served() -> ServedModel:
    return serve(make_class("cpu-small"), actuator="ray", fixed_nodes=1)


def want(served: ServedModel, count: int) -> str:
    return RayActuator().carry_out(served, Plan({"cpu-small": count}, "a test")).problem


def actor(state: str = "alive", **more: Any) -> dict[str, Any]:
    return {"state": state, "said": "", "address": "192.0.2.9", "ran_s": 1.0, **more}


def answers(served: ServedModel, told: dict[str, Any] = QUIET, **actors: dict[str, Any]) -> list[str]:
    """The cluster's word, whose actors are named with underscores. Returns the actors to stop."""
    return heard(
        served, timezone.now(), told, {name.replace("_", "-"): word for name, word in actors.items()}
    )


def the_host(served: ServedModel) -> Host:
    return hosts_of(served).get().host


def said(host: Host, **more: Any) -> dict[str, dict[str, Any]]:
    return {host.name.replace("-", "_"): actor(**more)}


def start(served: ServedModel) -> Host:
    """One host that is wanted, that the cluster has started, and whose agent was heard."""
    want(served, 1)
    told = told_to(served, timezone.now())
    answers(served, told, **said(the_host(served)))
    Host.objects.filter(pk=the_host(served).pk).update(last_seen_at=timezone.now(), n_devices=1)
    return the_host(served)


def silent(host: Host, seconds: int = UNSEEN_S + 1) -> None:
    Host.objects.filter(pk=host.pk).update(last_seen_at=timezone.now() - timedelta(seconds=seconds))


def stays(host: Host) -> bool:
    return Host.objects.get(pk=host.pk).revoked_at is None


def test_an_actor_that_gives_no_word_is_no_reason_for_another_host(served: ServedModel) -> None:
    host = start(served)
    for _ in range(3):
        answers(served, **said(host, state="pending", said="", address="", ran_s=0.0))
        want(served, 1)
    assert stays(host) and EngineHost.objects.count() == 1


def test_a_host_that_waited_long_for_its_machine_has_time_to_speak(served: ServedModel) -> None:
    want(served, 1)
    host = the_host(served)
    answers(served, told_to(served, timezone.now()), **said(host, state="pending", address="", ran_s=0.0))
    EngineHost.objects.update(started_at=timezone.now() - timedelta(hours=2))
    answers(served, **said(host, ran_s=3.0))
    assert stays(host)
    answers(served, **said(host, ran_s=UNSEEN_S + 1.0))
    assert not stays(host)


@pytest.mark.parametrize("word", [{"state": "alive", "ran_s": 9999.0}, {"state": "pending", "ran_s": 0.0}])
def test_a_host_whose_agent_was_not_heard_for_long_is_replaced(
    served: ServedModel, word: dict[str, Any]
) -> None:
    host = start(served)
    silent(host)
    answers(served, **said(host, **word))
    assert not stays(host)
    want(served, 1)
    assert EngineHost.objects.count() == 2 and hosts_of(served).count() == 1


def test_a_host_whose_node_answers_outlives_an_absence_of_the_site(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start(served)
    node = host.nodes.create(
        device=0, model=MODEL, state=NodeState.READY, reason="a test", url="http://192.0.2.9:1"
    )
    silent(host)
    asked: list[list[tuple[UUID, str]]] = []

    def answering(nodes: list[tuple[UUID, str]]) -> set[UUID]:
        asked.append(nodes)
        return {node.pk}

    monkeypatch.setattr(ray_failures, "ask", answering)
    answers(served, **said(host, ran_s=9999.0))
    assert stays(host)
    assert asked == [[(node.pk, "http://192.0.2.9:1")]]
    monkeypatch.setattr(ray_failures, "ask", lambda nodes: set())
    answers(served, **said(host, ran_s=9999.0))
    assert not stays(host)


def test_the_nodes_of_a_host_that_is_given_up_end_with_it(served: ServedModel) -> None:
    host = start(served)
    want(served, 1)
    (node,) = live()
    Node.objects.filter(pk=node.pk).update(state=NodeState.READY, told_at=timezone.now())
    answers(served)
    assert not stays(host)
    assert live() == []
    assert Node.objects.get().end_reason == "its host was given up: its actor is gone"
    want(served, 1)
    told_to(served, timezone.now())
    assert hosts_of(served).count() == 1


def test_an_actor_that_a_killed_worker_started_too_late_is_stopped(served: ServedModel) -> None:
    host = start(served)
    want(served, 0)
    told = told_to(served, timezone.now())
    assert told["stop"] == [host.name]
    assert answers(served, told) == []
    assert EngineHost.objects.get().gone_at is not None
    assert answers(served, **said(host)) == [host.name]


def test_an_actor_that_does_not_stop_is_told_again(served: ServedModel) -> None:
    host = start(served)
    want(served, 0)
    told = told_to(served, timezone.now())
    assert answers(served, told, **said(host)) == []
    assert told_to(served, timezone.now())["stop"] == [host.name]


def fails(served: ServedModel, at: datetime) -> None:
    """The wanted host is made, and its agent ends before it spoke."""
    want(served, 1)
    host = the_host(served)
    ended = said(host, state="ended", said="no module named gainshare")
    answers(served, told_to(served, timezone.now()), **ended)
    assert not stays(host)
    Host.objects.filter(pk=host.pk).update(revoked_at=at)


def test_hosts_that_fail_before_they_speak_are_tried_ever_more_slowly(served: ServedModel) -> None:
    device_class = served.classes.get()
    long_ago = timezone.now() - timedelta(hours=1)
    for failures, pause in enumerate((None, None, 4, 8, 16)):
        until = None if pause is None else long_ago + timedelta(seconds=pause)
        assert paused_until(served, device_class, long_ago) == until, failures
        fails(served, long_ago)
    Host.objects.update(revoked_at=timezone.now() + timedelta(hours=1))
    assert "the latest hosts of cpu-small failed; next try at" in want(served, 1)
    assert hosts_of(served).count() == 0
    Host.objects.update(revoked_at=long_ago)
    want(served, 1)
    assert hosts_of(served).count() == 1


def test_a_host_that_was_not_wanted_any_more_has_not_failed(served: ServedModel) -> None:
    for _ in range(4):
        want(served, 1)
        want(served, 0)
    assert paused_until(served, served.classes.get(), timezone.now()) is None
    assert want(served, 1) == "the Ray cluster has still to start 1 of the hosts"
