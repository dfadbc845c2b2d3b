"""What agents may fetch and send, over REST, and what no one else may: trees, files, keys, canaries, berths."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as live_settings
from pytest_django import Settings
from rest_framework.test import APIClient

from benchmarks.canary.order import CanaryOrder
from benchmarks.evidence.signing import generate_key, public_key
from benchmarks.patch.trees import BlobStore, Tree, read_tree
from gainshare.accounts.services import create_api_key
from gainshare.capacity.agent.protocol import BLOB_PATH, CANARY_PATH, HEARTBEAT_PATH, KEY_PATH, TREE_PATH
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.hosts.registration import renew_token
from gainshare.capacity.models import DeploymentState, Host, NodeState
from tests.gainshare.capacity.deployments.deployments_world import (
    MODEL,
    NEW,
    Machine,
    a_pool,
    again,
    ask,
    canary,
    deploy,
    live,
    machine,
    make_ready,
    ready_node,
    sealed,
)
from tests.gainshare.capacity.pool_world import make_user

pytestmark = pytest.mark.django_db

MANIFESTS: dict[str, dict[str, Any]] = {}


def manifest_of(tree: str) -> dict[str, Any] | None:
    """Stands for bounty's function."""
    return MANIFESTS.get(tree)


@pytest.fixture
def at(settings: Settings) -> Machine:
    settings.DEPLOYED_TREES = f"{__name__}.manifest_of"
    made = a_pool()
    ready_node(made.host)
    return made


def stored(folder: Path, text: str) -> Tree:
    """A tree with one file of its own, in the store of trees and in the blobs."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "engine.py").write_text(text)
    tree = read_tree(folder, BlobStore(live_settings.BLOB_ROOT))
    MANIFESTS[tree.hash] = tree.to_manifest()
    return tree


def beat(at: Machine, *devices: dict[str, Any], **more: Any) -> Any:
    body = {
        "agent": str(at.row.agent),
        "beat": at.row.beat + 1,
        "n_devices": 2,
        "devices": list(devices),
        **more,
    }
    return at.client.post(HEARTBEAT_PATH, body, format="json")


def free(device: int) -> dict[str, Any]:
    return {"device": device, "node": None, "state": "starting"}


def test_an_agent_reads_the_trees_of_its_canary_and_their_files(at: Machine, tmp_path: Path) -> None:
    tree, secret = stored(tmp_path / "a", f"fast = {uuid4().int}"), stored(tmp_path / "b", "not deployed")
    ask(tree.hash)
    answer = at.client.get(TREE_PATH.format(tree=tree.hash))
    assert answer.status_code == 200 and Tree.from_manifest(answer.json()) == tree
    (entry,) = tree.entries
    answer = at.client.get(BLOB_PATH.format(sha256=entry.blob))
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/octet-stream")
    assert answer.content == BlobStore(live_settings.BLOB_ROOT).get(entry.blob)
    # Another tree of the store, and a file that only it has, are none of the agent's business.
    assert at.client.get(TREE_PATH.format(tree=secret.hash)).status_code == 404
    assert at.client.get(BLOB_PATH.format(sha256=secret.entries[0].blob)).status_code == 404


@pytest.mark.parametrize("name", ["0" * 64, "..", "%2e%2e%2fetc", "x" * 300, "A" * 64])
def test_what_no_deployment_names_is_not_there(at: Machine, name: str) -> None:
    ask()
    assert at.client.get(TREE_PATH.format(tree=name)).status_code == 404
    assert at.client.get(BLOB_PATH.format(sha256=name)).status_code == 404


def test_a_tree_under_another_trees_name_is_not_given_out(at: Machine, tmp_path: Path) -> None:
    tree = stored(tmp_path, "fast = 1")
    other = f"{uuid4().hex}{uuid4().hex}"
    MANIFESTS[other] = tree.to_manifest()
    ask(other)
    assert at.client.get(TREE_PATH.format(tree=other)).status_code == 404
    assert at.client.get(BLOB_PATH.format(sha256=tree.entries[0].blob)).status_code == 404


def test_a_refused_tree_is_no_longer_given_out(at: Machine, tmp_path: Path) -> None:
    tree = stored(tmp_path, f"fast = {uuid4().int}")
    canary(at, ask(tree.hash), decode=1.2)
    assert at.client.get(TREE_PATH.format(tree=tree.hash)).status_code == 404


def test_a_key_is_registered_once_a_token(at: Machine) -> None:
    Host.objects.update(public_key="")
    mine, other = public_key(generate_key()), public_key(generate_key())
    for _ in range(2):
        answer = at.client.post(KEY_PATH, {"public_key": mine}, format="json")
        assert (answer.status_code, answer.json()) == (200, {"public_key": mine})
    answer = at.client.post(KEY_PATH, {"public_key": other}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "key_exists")
    assert at.row.public_key == mine
    _, token = renew_token(actor=make_user(), name=at.host.name)
    at.token = token
    assert at.client.post(KEY_PATH, {"public_key": other}, format="json").status_code == 200


@pytest.mark.parametrize("key", ["", "x", "A" * 44, "A" * 43, "AAAA", "A" * 65])
def test_a_key_is_a_key(at: Machine, key: str) -> None:
    Host.objects.update(public_key="")
    assert at.client.post(KEY_PATH, {"public_key": key}, format="json").status_code == 400
    assert at.row.public_key == ""


def test_a_whole_deployment_over_rest(at: Machine) -> None:
    deployment = ask()
    answer = beat(at, {**free(0), "node": str(live()[0].pk), "state": "ready", "port": 9000}, free(1))
    assert answer.status_code == 200, answer.content
    order = CanaryOrder.from_json(answer.json()["canary"])
    assert order.id == deployment.pk and order.candidate == NEW
    said = {"canary": {"id": str(order.id), "progress": "building"}}
    beat(at, {**free(0), "node": str(live()[0].pk), "state": "ready", "port": 9000}, free(1), **said)
    assert again(deployment).progress == "building"
    path = CANARY_PATH.format(id=order.id)
    answer = at.client.post(path, {"document": sealed(order, at.key)}, format="json")
    assert (answer.status_code, answer.json()) == (200, {"state": "starting", "why": ""})
    (old, new) = live()
    reports = [
        {**free(0), "node": str(old.pk), "state": "ready", "port": 9000},
        {**free(0), "berth": 1, "node": str(new.pk), "state": "ready", "port": 9001},
        free(1),
    ]
    beat(at, *reports[::2])
    answer = beat(at, *reports)
    assert [(told["device"], told["berth"], told["tree"]) for told in answer.json()["nodes"]] == [
        (0, 0, ""),
        (0, 1, NEW),
    ]
    assert answer.json()["canary"] is None
    assert again(deployment).state == DeploymentState.SERVING  # by the heartbeat itself
    assert [node.state for node in live()] == [NodeState.DRAINING, NodeState.READY]
    beat(at, *reports[1:])
    assert [node.tree for node in live()] == [NEW] and live()[0].berth == 1


def test_an_agent_says_that_its_canary_failed(at: Machine) -> None:
    deployment = ask()
    order = at.order()
    path = CANARY_PATH.format(id=order.id)
    for wrong in (
        {},
        {"failed": ""},
        {"failed": "x", "document": {}},
        {"failed": "x" * 301},
        {"document": [1]},
    ):
        assert at.client.post(path, wrong, format="json").status_code == 400
    assert at.client.post(path, {"failed": "no space left"}, format="json").status_code == 200
    assert again(deployment).state == DeploymentState.REQUESTED
    answer = at.client.post(path, {"document": sealed(order, at.key)}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_this_canary")


def test_another_host_and_a_bad_document_are_told_why(at: Machine) -> None:
    ask()
    order = at.order()
    path, thief = CANARY_PATH.format(id=order.id), machine(at.host.device_class)
    for key in (thief.key, at.key):
        assert thief.client.post(path, {"document": sealed(order, key)}, format="json").status_code == 409
    answer = at.client.post(path, {"document": sealed(order, thief.key)}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_evidence")
    assert "key" in answer.json()["error"]["message"]
    raw = json.dumps({"document": {"document": {"x": 1.5}, "digest": "", "signature": {}}})
    answer = at.client.generic("POST", path, raw, content_type="application/json")
    assert answer.status_code == 422


def test_customers_and_maintainers_may_call_none_of_them(at: Machine) -> None:
    deployment = ask()
    order = at.order()
    for role in ("contributor", "maintainer"):
        user = make_user(role)
        _, raw = create_api_key(user=user, name="test", scopes=sorted(user.allowed_scopes))
        for header in (f"Bearer {raw}", "Bearer gsh_000000000000_" + "0" * 64, None):
            client = APIClient()
            if header:
                client.credentials(HTTP_AUTHORIZATION=header)
            answers = [
                client.get(TREE_PATH.format(tree=NEW)),
                client.get(BLOB_PATH.format(sha256=NEW)),
                client.post(KEY_PATH, {"public_key": public_key(at.key)}, format="json"),
                client.post(
                    CANARY_PATH.format(id=order.id), {"document": sealed(order, at.key)}, format="json"
                ),
            ]
            assert {answer.status_code for answer in answers} <= {401, 403}
    assert again(deployment).state == DeploymentState.CANARY


def test_a_heartbeat_is_taken_although_a_deployment_cannot_go_on(
    at: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask()

    def broken(*_: Any) -> None:
        raise RuntimeError("the gateway's function is broken")

    monkeypatch.setattr("gainshare.capacity.deployments.canaries.draw", broken)
    answer = beat(at, {**free(0), "node": str(live()[0].pk), "state": "ready", "port": 9000}, free(1))
    assert (answer.status_code, answer.json()["canary"]) == (200, None)
    assert live()[0].state == NodeState.READY


def test_each_berth_is_told_apart_in_heartbeats(at: Machine) -> None:
    deploy(at)
    (serving,) = live()
    assert serving.berth == 1
    port = {"state": "ready", "port": 9001, "node": str(serving.pk)}
    assert beat(at, {**free(0), **port}, free(1)).status_code == 200  # it names the other berth
    assert live() == []
    held = serving
    type(held).objects.filter(pk=held.pk).update(holds_device=True)
    beat(at, {**free(0), "berth": 0}, {**free(0), "berth": 1, "node": str(uuid4())}, free(1))
    held.refresh_from_db()
    assert held.holds_device  # something is still there
    beat(at, free(0), free(1))
    held.refresh_from_db()
    assert not held.holds_device
    for wrong in ([free(0), free(0), free(1)], [{**free(0), "berth": 2}, free(1)], [{**free(0), "berth": 1}]):
        assert beat(at, *wrong).status_code == 400


def test_a_successor_that_is_ready_is_advanced_by_beat_as_well(at: Machine) -> None:
    canary(at, ask())
    make_ready(*live(NEW))
    assert advance(MODEL)
