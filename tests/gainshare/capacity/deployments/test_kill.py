"""kill -9 at every fault point of a deployment: the old tree or the new one serves, never none, and repeating completes."""

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as live_settings
from django.utils import timezone

from benchmarks.patch.trees import BlobStore
from gainshare.capacity.deployments.canaries import expected_order
from gainshare.capacity.deployments.rollback import roll_back
from gainshare.capacity.models import Deployment, DeploymentState, Host, NodeState
from gainshare.capacity.routing.exchange import EPOCH, exchange
from gainshare.capacity.routing.outbox import Outbox
from tests.gainshare.capacity.deployments.deployments_world import (
    MODEL,
    NEW,
    PASS_POINTS,
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
    sealed,
)
from tests.gainshare.ledger.test_kill import ROOT, environment

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def at() -> Machine:
    made = a_pool()
    # Processes take their time to start; the agent is heard meanwhile.
    Host.objects.update(last_seen_at=timezone.now() + timedelta(hours=1))
    return made


def in_process(what: str, argument: Any = None, *, fault: str = "none", folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gainshare.capacity.deployments.deployments_process", what, json.dumps(argument)],
        cwd=ROOT,
        env=environment(
            GAINSHARE_FAULT=fault, GAINSHARE_FAULT_DIR=str(folder), TEST_BLOBS=str(live_settings.BLOB_ROOT)
        ),
        capture_output=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def killed_then_repeated(what: str, argument: Any = None, *, fault: str, folder: Path) -> None:
    assert in_process(what, argument, fault=fault, folder=folder) == -signal.SIGKILL
    assert_served()
    assert in_process(what, argument, fault=fault, folder=folder) == 0
    assert_served()


def assert_served() -> None:
    """New requests have a node."""
    view = exchange(process=uuid4(), outbox=Outbox(), blocks_since=EPOCH)
    assert [node.key for node in view.nodes if node.state == NodeState.READY]


@pytest.mark.parametrize("fault", ["deployments.request.before_commit", "deployments.request.committed"])
def test_a_request(at: Machine, tmp_path: Path, fault: str) -> None:
    ready_node(at.host)
    killed_then_repeated("ask", NEW, fault=fault, folder=tmp_path)
    assert Deployment.objects.get().state == DeploymentState.REQUESTED


def test_a_canary_that_was_begun_is_told_with_the_next_heartbeat(at: Machine, tmp_path: Path) -> None:
    ready_node(at.host)
    deployment = ask()
    killed_then_repeated("heartbeat", str(at.host.pk), fault="deployments.canary.begun", folder=tmp_path)
    assert (again(deployment).state, again(deployment).tries) == (DeploymentState.CANARY, 1)
    assert at.order() == expected_order(again(deployment))


@pytest.mark.parametrize(
    "fault",
    ["deployments.evidence.stored", "deployments.evidence.recorded", "deployments.successor.ordered"],
)
def test_a_document_that_is_sent_again_after_the_kill(at: Machine, tmp_path: Path, fault: str) -> None:
    ready_node(at.host)
    deployment = ask()
    said = {"host": str(at.host.pk), "id": str(deployment.pk), "sealed": sealed(at.order(), at.key)}
    killed_then_repeated("document", said, fault=fault, folder=tmp_path)
    in_process("advance", folder=tmp_path)
    judged = again(deployment)
    assert judged.state == DeploymentState.STARTING and len(live(NEW)) == 1
    assert BlobStore(live_settings.BLOB_ROOT).has(judged.evidence_blob)


@pytest.mark.parametrize(
    "fault",
    [
        "deployments.switch.superseded",
        "deployments.switch.before_commit",
        "deployments.switch.committed",
        "capacity.drain.after_update",
        "deployments.strays.drained_one",
    ],
)
def test_a_switch(at: Machine, tmp_path: Path, fault: str) -> None:
    ready_node(at.host)
    ready_node(at.host)
    deployment = canary(at, ask())
    make_ready(*live(NEW))
    killed_then_repeated("advance", fault=fault, folder=tmp_path)
    assert again(deployment).state == DeploymentState.SERVING
    # The processes have the default setting: one node keeps the tree before for a day.
    assert len(live("", NodeState.DRAINING)) == len(live("", NodeState.READY)) == 1
    assert len(live(NEW, NodeState.READY)) == 2


@pytest.mark.parametrize("fault", PASS_POINTS)
def test_a_pass_that_is_killed_between_its_parts(at: Machine, tmp_path: Path, fault: str) -> None:
    ready_node(at.host)
    deployment = canary(at, ask())
    make_ready(*live(NEW))
    killed_then_repeated("pass", fault=fault, folder=tmp_path)
    assert again(deployment).state == DeploymentState.SERVING
    assert len(live(NEW, NodeState.READY)) == 1


@pytest.mark.parametrize("fault", ["deployments.rollback.before_commit", "deployments.rollback.committed"])
def test_a_rollback(at: Machine, tmp_path: Path, fault: str) -> None:
    ready_node(at.host)
    deployed = deploy(at)
    killed_then_repeated("rollback", fault=fault, folder=tmp_path)
    make_ready(*live(""))
    assert in_process("advance", fault="deployments.switch.superseded", folder=tmp_path) == -signal.SIGKILL
    assert_served()
    assert in_process("advance", folder=tmp_path) == 0
    assert again(deployed).state == DeploymentState.ROLLED_BACK
    assert Deployment.objects.filter(is_rollback=True).count() == 1
    assert_served()


@pytest.mark.parametrize("fault", ["deployments.rollback.before_commit", "deployments.rollback.committed"])
def test_a_rollback_that_is_begun_again(at: Machine, tmp_path: Path, fault: str) -> None:
    ready_node(at.host)
    deploy(at)
    failed = roll_back(model=MODEL, actor=None, reason="it fails")
    Deployment.objects.filter(is_first=False, is_rollback=False).update(watch_ended_at=timezone.now())
    an_hour_ago = timezone.now() - timedelta(hours=1)
    Deployment.objects.filter(pk=failed.pk).update(state=DeploymentState.FAILED, ended_at=an_hour_ago)
    for node in live(""):
        end(node)
    killed_then_repeated("pass", fault=fault, folder=tmp_path)
    tries = Deployment.objects.filter(is_rollback=True).order_by("created_at")
    assert [row.state for row in tries] == [DeploymentState.FAILED, DeploymentState.STARTING]
    assert len(live("", NodeState.STARTING)) == 1


def test_a_deployment_that_is_given_up(at: Machine, tmp_path: Path) -> None:
    ready_node(at.host)
    deployment = canary(at, ask())
    make_ready(*live(NEW))
    Deployment.objects.update(starting_at="2020-01-01T00:00:00Z")
    at.host.nodes.filter(tree=NEW).update(state=NodeState.STARTING)
    killed_then_repeated("advance", fault="deployments.given_up", folder=tmp_path)
    assert again(deployment).state == DeploymentState.FAILED
    assert live(NEW, NodeState.STARTING) == [] and len(live("", NodeState.READY)) == 1


def test_a_key(at: Machine, tmp_path: Path) -> None:
    ready_node(at.host)
    key = at.row.public_key
    Host.objects.update(public_key="")
    said = {"host": str(at.host.pk), "key": key}
    killed_then_repeated("key", said, fault="deployments.key.registered", folder=tmp_path)
    assert at.row.public_key == key
