"""REST of deployments for people: read by all who may read the pool, rolled back by maintainers."""

import json

import pytest

from benchmarks.canary.verify import verify_canary
from gainshare.capacity.models import DeploymentState
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
    ready_node,
)
from tests.gainshare.capacity.hosts.test_api import client

pytestmark = pytest.mark.django_db
DEPLOYMENTS = "/api/v1/capacity/deployments/"


@pytest.fixture
def at() -> Machine:
    made = a_pool()
    ready_node(made.host)
    return made


def test_everyone_who_reads_the_pool_reads_deployments(at: Machine) -> None:
    served, refused = deploy(at), canary(at, ask(NEWER), decode=1.2)
    who = client("contributor")
    listed = who.get(DEPLOYMENTS, {"model": MODEL}).json()["results"]
    assert [(row["id"], row["state"]) for row in listed] == [
        (str(refused.pk), "refused"),
        (str(served.pk), "serving"),
    ]
    assert who.get(DEPLOYMENTS, {"state": "refused"}).json()["count"] == 1
    assert who.get(DEPLOYMENTS, {"model": "other"}).json()["count"] == 0
    one = who.get(f"{DEPLOYMENTS}{refused.pk}/").json()
    assert (one["tree"], one["before"], one["why"]) == (NEWER, str(served.pk), again(refused).why)
    assert one["result"]["batch_times"] and one["plan"]["shapes_source"] and one["has_evidence"]
    assert client("contributor").get(f"{DEPLOYMENTS}{at.host.pk}/").status_code == 404


def test_the_evidence_is_the_hosts_own_document(at: Machine) -> None:
    served = deploy(at)
    answer = client("contributor").get(f"{DEPLOYMENTS}{served.pk}/evidence/")
    assert answer.status_code == 200 and f"canary-{served.pk}.json" in answer["Content-Disposition"]
    report = verify_canary(json.loads(answer.content))
    assert report.ok and report.verdict.passed
    waiting = ask(NEWER)
    assert client("contributor").get(f"{DEPLOYMENTS}{waiting.pk}/evidence/").status_code == 404


def test_a_maintainer_rolls_back_and_no_one_else(at: Machine) -> None:
    first, second = deploy(at), deploy(at, NEWER)
    path = f"{DEPLOYMENTS}{second.pk}/rollback/"
    assert client("contributor").post(path, {"reason": "slow"}, format="json").status_code == 403
    who = client()
    assert who.post(path, {}, format="json").status_code == 400
    answer = who.post(path, {"reason": "users say it is slow"}, format="json")
    assert answer.status_code == 200, answer.content
    made = answer.json()
    assert (made["tree"], made["is_rollback"], made["state"]) == (NEW, True, DeploymentState.STARTING)
    assert made["requested_by"].startswith("maintainer-")
    answer = who.post(f"{DEPLOYMENTS}{first.pk}/rollback/", {"reason": "that one too"}, format="json")
    assert answer.status_code == 409
