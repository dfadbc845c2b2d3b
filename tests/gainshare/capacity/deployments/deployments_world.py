"""A served model with hosts that can try a tree, and short words for what happens to a deployment."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from benchmarks.canary import verdict as canaries_verdict
from benchmarks.canary.order import CanaryOrder
from benchmarks.canary.verdict import BatchTime, CanaryVerdict, LineResult
from benchmarks.evidence.document import seal_form
from benchmarks.evidence.signing import generate_key, public_key
from gainshare.capacity.deployments.canaries import order_for
from gainshare.capacity.deployments.evidence import take_document
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.deployments.requests import request_deployment
from gainshare.capacity.hosts import nodes as life_cycle
from gainshare.capacity.hosts.tokens import new_token
from gainshare.capacity.models import Deployment, DeviceClass, Host, Node, NodeState, ServedModel
from tests.gainshare.capacity.pool_world import MODEL, make_class, make_host, make_user

OLD, NEW, NEWER = "0a" * 32, "1b" * 32, "2c" * 32
LENGTHS: list[tuple[int, int, int]] = []


def recent_lengths(model: str) -> list[tuple[int, int, int]]:
    """Stands for the gateway's function."""
    assert model == MODEL
    return LENGTHS


def decide(document: dict[str, Any]) -> CanaryVerdict:
    """Stands for the canary's rules, which have tests of their own: the verdict that a test wrote into the document."""
    said = document["finding"]
    return CanaryVerdict(
        passed=said["passed"],
        why=said["why"],
        served={line: LineResult(**row) for line, row in said["served"].items()},
        best={line: LineResult(**row) for line, row in said["best"].items()},
        batch_times=tuple(BatchTime(**row) for row in said["batch_times"]),
    )


def arrange(settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Any) -> None:
    """Settings of these tests: functions that belong to other rooms are named by string."""
    settings.BLOB_ROOT = folder / "blobs"
    settings.RECENT_LENGTHS = f"{__name__}.recent_lengths"
    monkeypatch.setattr(canaries_verdict, "decide", decide, raising=False)


@dataclass
class Machine:
    """A host with its agent's key and token."""

    host: Host
    key: Ed25519PrivateKey
    token: str

    @property
    def row(self) -> Host:
        return Host.objects.select_related("device_class").get(pk=self.host.pk)

    @property
    def client(self) -> APIClient:
        made = APIClient(REMOTE_ADDR=self.host.address, raise_request_exception=False)
        made.credentials(HTTP_AUTHORIZATION=f"Bearer {self.token}")
        return made

    def order(self) -> CanaryOrder:
        found = order_for(self.row, None)
        assert found is not None
        return found


def machine(device_class: DeviceClass, *, devices: int = 2, **more: Any) -> Machine:
    key, token = generate_key(), new_token()
    host = make_host(device_class, devices=devices, public_key=public_key(key), **more)
    Host.objects.filter(pk=host.pk).update(token_prefix=token.prefix, token_digest=token.digest)
    return Machine(host, key, token.text)


def serve(device_class: DeviceClass | None = None, **more: Any) -> ServedModel:
    served = ServedModel.objects.create(name=MODEL, changed_by=make_user(), **more)
    served.classes.add(device_class or make_class())
    return served


def a_pool(*, devices: int = 2) -> Machine:
    """One machine, and the served model on its class."""
    served = serve()
    return machine(served.classes.get(), devices=devices)


def node_on(host: Host, *, tree: str = "") -> Node:
    """An ordered node."""
    node = life_cycle.order(model=MODEL, device_class=host.device_class, reason="a test", tree=tree)
    assert node is not None
    return node


def make_ready(*nodes: Node) -> None:
    """As heartbeats do when they answer."""
    now = timezone.now()
    for node in nodes:
        Node.objects.filter(pk=node.pk).update(
            state=NodeState.READY, told_at=now, ready_at=now, url=f"http://192.0.2.7:{9000 + node.device}"
        )


def ready_node(host: Host, *, tree: str = "") -> Node:
    node = node_on(host, tree=tree)
    make_ready(node)
    return node


def end(node: Node, *, reason: str = "it exited with 1") -> None:
    """As its agent does when the process is gone."""
    now = timezone.now()
    Node.objects.filter(pk=node.pk).update(
        state=NodeState.ENDED, told_at=now, ended_at=now, end_reason=reason
    )


def live(tree: str | None = None, state: str | None = None) -> list[Node]:
    nodes = Node.objects.exclude(state=NodeState.ENDED).order_by("created_at")
    nodes = nodes if tree is None else nodes.filter(tree=tree)
    return list(nodes if state is None else nodes.filter(state=state))


def ask(tree: str = NEW, **more: Any) -> Deployment:
    return request_deployment(
        **{"model": MODEL, "tree": tree, "lineage": "main", "actor": None, "reason": "a merge", **more}
    )


def line(bound: int) -> dict[str, int]:
    return {"bound_log_ppm": bound, "estimate_log_ppm": bound + 10_000, "pairs": 30}


def finding(*, passed: bool = True, why: str = "", decode: int = 50_000) -> dict[str, Any]:
    """What a document's verdict shall be."""
    lines = {"prefill": line(-2_000), "decode": line(decode), "memory": line(-100)}
    times = [{"batch": batch, "candidate_ns": ns, "served_ns": ns + 10_000_000} for batch, ns in ((1, 40_000_000), (4, 100_000_000))]  # fmt: skip
    return {"passed": passed, "why": why, "served": lines, "best": lines, "batch_times": times}


def sealed(order: CanaryOrder, key: Ed25519PrivateKey, **found: Any) -> dict[str, Any]:
    document = {"schema": "gainshare.canary/1", "order": order.to_json(), "finding": finding(**found)}
    return seal_form(_plain(document), key)


def _plain(value: Any) -> Any:
    """Tuples as lists, as after JSON."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def canary(at: Machine, deployment: Deployment, **found: Any) -> Deployment:
    """The machine runs the deployment's canary, with this finding."""
    order = at.order()
    assert order.id == deployment.pk
    return take_document(host=at.row, deployment_id=deployment.pk, sealed=sealed(order, at.key, **found))


def deploy(at: Machine, tree: str = NEW, **found: Any) -> Deployment:
    """A whole deployment to its end: canary, successors, switch."""
    deployment = canary(at, ask(tree), **found)
    make_ready(*live(tree))
    advance(MODEL)
    for node in live(state=NodeState.DRAINING):
        end(node)
    return again(deployment)


def again(deployment: Deployment) -> Deployment:
    return Deployment.objects.get(pk=deployment.pk)


def ago(**span: float) -> datetime:
    return timezone.now() - timedelta(**span)
