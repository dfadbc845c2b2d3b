"""Devices on loan through REST: a runner's own client borrows and gives back, a maintainer says where a runner measures."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from rest_framework.test import APIClient

from benchmarks.runner.client import NotLeasable, RunnerClient
from bounty.models import Run, RunState
from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key
from gainshare.capacity.pool.loans import recall
from tests.bounty.api.test_runner_api import DIFF, URL, through_django
from tests.bounty.bounty_world import World
from tests.bounty.services.runners.pool_world import add_host, lending_host, states


@pytest.fixture
def runner(world: World) -> Iterator[RunnerClient]:
    client = RunnerClient(URL, world.token, transport=httpx.MockTransport(through_django))
    yield client
    client.close()


def client_of(user: User, *scopes: str) -> APIClient:
    client = APIClient()
    client.credentials(
        HTTP_AUTHORIZATION=f"Bearer {create_api_key(user=user, name='test', scopes=list(scopes))[1]}"
    )
    return client


def test_a_runner_borrows_is_recalled_and_gives_back(world: World, runner: RunnerClient) -> None:
    host = lending_host(world)
    world.submit(world.ann, DIFF)
    run = runner.lease(str(uuid4()))
    assert run.is_lent and states(host) == ["taken"]
    assert runner.heartbeat(run, stage="gating", pairs_done=1, pairs_max=48).give_back_s is None
    recall(host_id=host.pk, device=0, reason="a node is ordered")
    told = runner.heartbeat(run, stage="gating", pairs_done=2, pairs_max=48)
    assert not told.cancel and told.give_back_s is not None and 0 < told.give_back_s <= 30
    runner.give_back()
    runner.give_back()
    assert states(host) == ["returned"] and Run.objects.get().state == RunState.QUEUED
    with pytest.raises(NotLeasable, match="not on offer"):
        runner.lease(str(uuid4()))


def test_a_runner_without_a_loan_is_told_so(world: World, runner: RunnerClient) -> None:
    world.submit(world.ann, DIFF)
    run = runner.lease(str(uuid4()))
    assert not run.is_lent
    assert runner.heartbeat(run, stage="gating", pairs_done=1, pairs_max=48).give_back_s is None


def test_a_runner_cannot_name_its_device(world: World) -> None:
    """The attack: fields that a runner adds to its requests, and a maintainer's address with a runner's token."""
    host = add_host(world.mira)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {world.token}")
    place = {
        "host": host.name,
        "device": 0,
        "device_host": str(host.pk),
        "device_number": 0,
        "reason": "mine",
    }
    client.post("/api/v1/runner/waiting/", place, format="json")
    client.post("/api/v1/runner/lease/", {"run_id": str(uuid4()), "fingerprint": {}, **place}, format="json")
    answer = client.post(f"/api/v1/runners/{world.runner.name}/device/", place, format="json")
    assert answer.status_code in (401, 403)
    world.runner.refresh_from_db()
    assert world.runner.device_host is None


def test_a_maintainer_says_where_a_runner_measures(world: World) -> None:
    host, address = add_host(world.mira), f"/api/v1/runners/{world.runner.name}/device/"
    place = {"host": host.name, "device": 1, "reason": "it is there"}
    assert client_of(world.ann, "read", "submit").post(address, place, format="json").status_code == 403
    client = client_of(world.mira, "maintain")
    seen = client.post(address, place, format="json").json()
    assert (seen["pool_host"], seen["pool_device"]) == (host.name, 1)
    assert "it is there" in seen["changes"][-1]["reason"]
    assert client.post(address, {**place, "host": "nowhere"}, format="json").status_code == 400
    assert client.post(address, {**place, "device": -1}, format="json").status_code == 400
    assert client.post(address, {**place, "host": ""}, format="json").json()["pool_host"] == ""
