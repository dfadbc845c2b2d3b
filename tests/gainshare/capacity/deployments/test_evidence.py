"""Documents of canaries, and attacks by hosts: other hosts' canaries, old documents, other keys, trees and orders."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings as live_settings

from benchmarks.evidence.canonical import parse
from benchmarks.evidence.document import digest, seal_form
from benchmarks.evidence.signing import generate_key
from benchmarks.patch.trees import BlobStore
from gainshare.capacity.deployments.canaries import expected_order, order_for, try_again
from gainshare.capacity.deployments.errors import BadEvidence, Decided, NotThisCanary
from gainshare.capacity.deployments.evidence import take_document
from gainshare.capacity.hosts.registration import renew_token
from gainshare.capacity.models import Deployment, DeploymentState, Host
from tests.gainshare.capacity.deployments.deployments_world import (
    NEWER,
    OLD,
    Machine,
    a_pool,
    again,
    ask,
    canary,
    live,
    machine,
    ready_node,
    sealed,
)
from tests.gainshare.capacity.pool_world import make_user, race

pytestmark = pytest.mark.django_db


@pytest.fixture
def at() -> Machine:
    made = a_pool()
    ready_node(made.host)
    return made


@pytest.fixture
def deployment(at: Machine) -> Deployment:
    made = ask()
    at.order()
    return made


def post(at: Machine, deployment: Deployment, document: Any) -> Deployment:
    return take_document(host=at.row, deployment_id=deployment.pk, sealed=document)


def test_a_passed_canary_is_stored_and_starts_successors(at: Machine, deployment: Deployment) -> None:
    document = sealed(at.order(), at.key)
    taken = post(at, deployment, document)
    assert (taken.state, taken.why) == (DeploymentState.STARTING, "")
    assert taken.judged_at == taken.starting_at is not None
    assert 90_000 < taken.result["best"]["decode"]["bound_log_ppm"] < 120_000
    assert [row["batch"] for row in taken.result["batch_times"]] == [1, 4, 7]
    assert parse(BlobStore(live_settings.BLOB_ROOT).get(taken.evidence_blob)) == document
    (successor,) = live(deployment.tree)
    assert (successor.device, successor.berth) == (0, 1)
    assert order_for(at.row, None) is None


def test_a_refused_one_says_why_and_the_old_tree_goes_on(at: Machine, deployment: Deployment) -> None:
    taken = canary(at, deployment, decode=1.2)
    assert taken.state == DeploymentState.REFUSED and "decode" in taken.why
    assert taken.evidence_blob and taken.ended_at is not None
    assert live(deployment.tree) == []
    assert ask().pk != deployment.pk


def test_the_same_document_again_changes_nothing_and_another_one_is_refused(
    at: Machine, deployment: Deployment
) -> None:
    order = at.order()
    document = sealed(order, at.key, decode=1.2)
    first = post(at, deployment, document)
    second = post(at, deployment, document)
    assert (second.state, second.judged_at) == (first.state, first.judged_at)
    with pytest.raises(Decided):
        post(at, deployment, sealed(order, at.key))
    assert again(deployment).state == DeploymentState.REFUSED


def test_a_host_decides_no_other_hosts_canary(at: Machine, deployment: Deployment) -> None:
    thief = machine(at.host.device_class)
    for key in (thief.key, at.key):
        with pytest.raises(NotThisCanary):
            post(thief, deployment, sealed(at.order(), key))
    assert again(deployment).state == DeploymentState.CANARY


def test_a_document_signed_with_another_key_is_refused(at: Machine, deployment: Deployment) -> None:
    with pytest.raises(BadEvidence, match="key"):
        post(at, deployment, sealed(at.order(), generate_key()))
    Host.objects.update(public_key="")
    with pytest.raises(BadEvidence):
        post(at, deployment, sealed(expected_order(again(deployment)), at.key))
    assert again(deployment).evidence_blob == ""


def test_a_renewed_token_needs_its_key_again(at: Machine, deployment: Deployment) -> None:
    document = sealed(at.order(), at.key)
    renew_token(actor=make_user(), name=at.host.name)
    assert at.row.public_key == ""
    with pytest.raises(BadEvidence):
        post(at, deployment, document)


@pytest.mark.parametrize(
    "changed", [{"served": OLD}, {"candidate": NEWER}, {"best": OLD}, {"nonce": "0" * 64}, {"model": "other"}], ids=lambda changed: next(iter(changed))
)  # fmt: skip
def test_a_document_about_another_order_is_refused(
    at: Machine, deployment: Deployment, changed: dict[str, str]
) -> None:
    with pytest.raises(BadEvidence, match=r"order|nonce|tree"):
        post(at, deployment, sealed(replace(at.order(), **changed), at.key))  # type: ignore[arg-type]


def test_fewer_pairs_or_other_shapes_than_asked_are_refused(at: Machine, deployment: Deployment) -> None:
    order = at.order()
    for plan in (replace(order.plan, pairs=1), replace(order.plan, shapes=order.plan.shapes[:1])):
        with pytest.raises(BadEvidence, match=r"order|nonce|tree"):
            post(at, deployment, sealed(replace(order, plan=plan), at.key))


def test_an_old_document_is_no_answer_to_a_new_try(at: Machine, deployment: Deployment) -> None:
    old = sealed(at.order(), at.key)
    assert try_again(again(deployment), "it was slow")
    with pytest.raises(NotThisCanary):
        post(at, deployment, old)  # it waits for a host
    at.order()
    with pytest.raises(BadEvidence, match=r"order|nonce|tree"):
        post(at, deployment, old)
    assert again(deployment).state == DeploymentState.CANARY


def test_a_changed_document_is_refused(at: Machine, deployment: Deployment) -> None:
    document = sealed(at.order(), at.key, decode=1.2)
    changed = deepcopy(document)
    changed["document"]["verdict"]["passed"] = True
    with pytest.raises(BadEvidence, match="digest"):
        post(at, deployment, changed)

    changed["digest"] = digest(changed["document"])
    with pytest.raises(BadEvidence, match="signature"):
        post(at, deployment, changed)


def test_a_verdict_other_than_the_samples_is_refused_and_nothing_is_stored(
    at: Machine, deployment: Deployment
) -> None:
    document = sealed(at.order(), at.key, decode=1.2)["document"]
    assert not document["verdict"]["passed"]
    document["verdict"]["passed"] = True
    with pytest.raises(BadEvidence, match="verdict"):
        post(at, deployment, seal_form(document, at.key))
    with pytest.raises(BadEvidence, match="schema"):
        post(at, deployment, seal_form({**document, "more": 1}, at.key))
    assert again(deployment).evidence_blob == "" and not list(
        BlobStore(live_settings.BLOB_ROOT).put_before(2**40)
    )


WRONG: list[Any] = [None, [], {}, "x", 7, {"document": 1, "digest": "", "signature": {}}, {"document": {}, "digest": 1.5, "signature": 1}, {"document": {"schema": "x"}, "digest": "", "signature": {"algorithm": "none"}}]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_something_else_is_refused(at: Machine, deployment: Deployment, wrong: Any) -> None:
    with pytest.raises(BadEvidence):
        post(at, deployment, wrong)


@pytest.mark.django_db(transaction=True)
def test_two_documents_at_one_moment_decide_once(at: Machine, deployment: Deployment) -> None:
    order = at.order()
    bad, good = sealed(order, at.key, decode=1.2), sealed(order, at.key)

    def send(document: Any) -> str:
        try:
            return str(post(at, deployment, document).state)
        except Decided:
            return "decided"

    found = race(*[lambda d=d: send(d) for d in (bad, good, bad, good)])
    decided = again(deployment).state
    assert decided in (DeploymentState.REFUSED, DeploymentState.STARTING)
    assert set(found) <= {decided, "decided"} and decided in found
