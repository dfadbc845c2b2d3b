"""A served model with hosts that can try a tree, and short words for what happens to a deployment."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from benchmarks.canary.document import build_document, seal
from benchmarks.canary.order import CanaryOrder
from benchmarks.evidence.signing import generate_key, public_key
from gainshare.capacity.deployments.canaries import order_for
from gainshare.capacity.deployments.evidence import take_document
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.deployments.requests import request_deployment
from gainshare.capacity.hosts import nodes as life_cycle
from gainshare.capacity.hosts.tokens import new_token
from gainshare.capacity.lengths import Lengths
from gainshare.capacity.models import Deployment, DeviceClass, Host, Node, NodeState, ServedModel
from tests.benchmarks.canary.documents import Factor, comparison
from tests.gainshare.capacity.pool_world import MODEL, make_class, make_host, make_user

__all__ = ["MODEL"]
OLD, NEW, NEWER = "0a" * 32, "1b" * 32, "2c" * 32
INSTALLED = "ff" * 32  # as a host names what it has installed
#: Fault points between the parts of beat's pass over all deployments.
PASS_POINTS = ("capacity.deployments.after_canaries", "capacity.deployments.after_watch")
LENGTHS: list[Lengths] = []


def recent_lengths(model: str, most: int) -> list[Lengths]:
    """What the gateway's function of this name does."""
    assert model == MODEL
    return LENGTHS[:most]


def arrange(settings: Settings, folder: Any) -> None:
    """Settings of these tests: functions that belong to other rooms are named by string."""
    settings.BLOB_ROOT = folder / "blobs"
    settings.RECENT_LENGTHS = f"{__name__}.recent_lengths"
    settings.HOST_LOST_S = 600  # a machine that is held up between two lines of a test has no silent hosts
    settings.FORMER_TREE_S = 0  # all nodes of the tree before drain at once; `test_former` keeps one


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


def sealed(
    order: CanaryOrder, key: Ed25519PrivateKey, *, decode: float = 0.9, best: float | None = None
) -> dict[str, Any]:
    """A host's document: decoding takes `decode` times what it takes with the served tree, and `best` with the best one."""
    factors = {"served": decode} if order.best == order.served else {"served": decode, "best": best or decode}
    comparisons = [
        comparison(against, seed, order.plan, _decodes_in(factor))
        for seed, (against, factor) in enumerate(factors.items())
    ]
    when = datetime(2026, 1, 2, tzinfo=UTC)
    document = build_document(
        order,
        hashes={name: getattr(order, name) or INSTALLED for name in ("served", "candidate", "best")},
        environment={"cpu": "one"},
        sandbox={"level": "bubblewrap", "counted_by": {"cpu": "cgroup-v1", "memory": "cgroup-v1"}, "core": 1},
        device="cpu",
        memory_bytes=1 << 30,
        arguments=[],
        secret="c" * 64,
        comparisons=comparisons,
        planted=12,
        events=[],
        started_at=when,
        finished_at=when,
    )
    return seal(document, key)


def _decodes_in(factor: float) -> Factor:
    return lambda line, batch: factor if line == "decode" else 1.0


def canary(at: Machine, deployment: Deployment, **found: float) -> Deployment:
    """The machine runs the deployment's canary, with this finding."""
    order = at.order()
    assert order.id == deployment.pk
    return take_document(host=at.row, deployment_id=deployment.pk, sealed=sealed(order, at.key, **found))


def deploy(at: Machine, tree: str = NEW, **found: float) -> Deployment:
    """A whole deployment to its end: canary, successors, switch."""
    deployment = canary(at, ask(tree), **found)
    for node in live(state=NodeState.DRAINING):  # one that kept the tree before, until its berth was needed
        end(node)
    advance(MODEL)
    make_ready(*live(tree))
    advance(MODEL)
    for node in live(state=NodeState.DRAINING):
        end(node)
    return again(deployment)


def again(deployment: Deployment) -> Deployment:
    return Deployment.objects.get(pk=deployment.pk)


def ago(**span: float) -> datetime:
    return timezone.now() - timedelta(**span)
