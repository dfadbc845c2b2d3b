"""The pool at one moment: classes with their hosts, devices, nodes, measured rates and runners. Read-only.

The number of queries does not depend on how many hosts, nodes and runners there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings

from gainshare.capacity.models import (
    LIVE,
    UNRETURNED,
    ClassPrice,
    DeviceClass,
    DeviceLoan,
    Host,
    LoanState,
    Node,
)
from gainshare.capacity.pool.offers import needs_loan
from gainshare.capacity.pool.runners import RunnerRow, runner_rows
from gainshare.capacity.routing.rates import measured

SHARED = "one device serves and judges: both share it"
LENT = "a device serves or judges, never both: it is lent to judging while it is idle"
HIDDEN_PROBLEM = "it reports a problem, which maintainers can read"


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device of a host with what is on it: a node, a loan, or nothing. ``runner`` measures on it at times.

    ``successor`` is the node that starts beside ``node`` to replace it.
    """

    number: int
    node: Node | None
    loan: DeviceLoan | None
    runner: str
    successor: Node | None = None

    @property
    def nodes(self) -> list[Node]:
        """What runs on it, the longest first."""
        return [node for node in (self.node, self.successor) if node is not None]

    @property
    def use(self) -> str:
        """``node``, ``offered``, ``lent`` or ``free``. A node counts before an offer that it has just ended."""
        if self.node is not None:
            return "node"
        if self.loan is None:
            return "free"
        return "offered" if self.loan.state == LoanState.OFFERED else "lent"


@dataclass(frozen=True, slots=True)
class HostView:
    """One host. ``sharing`` says how serving and judging divide it."""

    host: Host
    is_silent: bool
    problem: str
    is_shared: bool
    sharing: str
    devices: Sequence[DeviceView]


@dataclass(frozen=True, slots=True)
class PriceChange:
    """The last change of a class's price: from what, by whom (empty: the machine's supervisor), when."""

    before_microcredits: int
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ModelRates:
    """What the gateway measured of one node of the class with this model; 0 where nothing was measured."""

    model: str
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class ClassView:
    """One class with its hosts and with the runners of its hardware."""

    device_class: DeviceClass
    price_change: PriceChange | None
    hosts: Sequence[HostView]
    runners: Sequence[RunnerRow]
    rates: Sequence[ModelRates]

    @property
    def nodes(self) -> list[Node]:
        """Its nodes that have not ended, by host and device."""
        return [node for view in self.hosts for device in view.devices for node in device.nodes]

    @property
    def loans(self) -> list[DeviceLoan]:
        """Its devices' offers and loans to judging, without offers that a node has just ended."""
        devices = [device for view in self.hosts for device in view.devices if device.node is None]
        return [device.loan for device in devices if device.loan is not None]

    @property
    def n_nodes(self) -> int:
        return len(self.nodes)

    @property
    def has_devices(self) -> bool:
        return any(view.devices for view in self.hosts)


@dataclass(frozen=True, slots=True)
class StaticNode:
    """A node of GAINSHARE_MODEL_NODES: fixed, without class, price or agent. ``address`` is for maintainers only."""

    number: int
    address: str


@dataclass(frozen=True, slots=True)
class PoolView:
    """Everything. ``other_runners`` have hardware that no class names."""

    classes: Sequence[ClassView]
    static_nodes: Sequence[StaticNode]
    other_runners: Sequence[RunnerRow]

    @property
    def is_empty(self) -> bool:
        """Whether the pool has no class yet."""
        return not self.classes


def overview(now: datetime, *, for_maintainers: bool) -> PoolView:
    """The pool now. Addresses and texts of problems are for maintainers only."""
    rows = runner_rows()
    classes = list(DeviceClass.objects.all())
    changes = _price_changes(classes)
    hosts = _host_views(now, rows, for_maintainers=for_maintainers)
    views = [
        ClassView(
            device_class=one,
            price_change=changes.get(one.pk),
            hosts=[view for view in hosts if view.host.device_class_id == one.pk],
            runners=[row for row in rows if one.hardware and row.hardware == one.hardware],
            rates=_rates(one, hosts),
        )
        for one in classes
    ]
    named = {one.hardware for one in classes}
    return PoolView(
        classes=views,
        static_nodes=_static_nodes(for_maintainers=for_maintainers),
        other_runners=[row for row in rows if row.hardware not in named],
    )


def _host_views(now: datetime, rows: Iterable[RunnerRow], *, for_maintainers: bool) -> list[HostView]:
    hosts = list(Host.objects.filter(revoked_at=None).select_related("device_class"))
    nodes: dict[tuple[UUID, int], list[Node]] = {}
    for node in Node.objects.filter(state__in=LIVE).select_related("host").order_by("created_at"):
        nodes.setdefault((node.host_id, node.device), []).append(node)
    loans = {
        (loan.host_id, loan.device): loan
        for loan in DeviceLoan.objects.filter(state__in=UNRETURNED).select_related("host")
    }
    runners = {
        (row.device_host, row.device): row.name
        for row in rows
        if row.device_host is not None and row.device is not None
    }
    silent_before = now - timedelta(seconds=settings.HOST_LOST_S)
    return [
        HostView(
            host=host,
            is_silent=host.last_seen_at is None or host.last_seen_at < silent_before,
            problem=host.problem if for_maintainers or not host.problem else HIDDEN_PROBLEM,
            is_shared=not needs_loan(host),
            sharing=LENT if needs_loan(host) else SHARED,
            devices=_devices(host, nodes, loans, runners),
        )
        for host in hosts
    ]


def _rates(device_class: DeviceClass, hosts: Sequence[HostView]) -> list[ModelRates]:
    """Measured rates of the models that have a node of the class now, by name."""
    nodes = (node for view in hosts for device in view.devices for node in device.nodes)
    models = {node.model for node in nodes if node.host.device_class_id == device_class.pk}
    found = [(model, measured(model, device_class.name)) for model in sorted(models)]
    return [
        ModelRates(model, rates.prefill_tokens_per_s, rates.decode_tokens_per_s, rates.requests_per_s)
        for model, rates in found
    ]


def _devices(
    host: Host,
    nodes: Mapping[tuple[UUID, int], Sequence[Node]],
    loans: Mapping[tuple[UUID, int], DeviceLoan],
    runners: Mapping[tuple[UUID, int], str],
) -> list[DeviceView]:
    """The host's devices, and those that it no longer names while a node or a loan is still on them."""
    used = {device for at, device in (*nodes, *loans) if at == host.pk}
    return [
        DeviceView(
            number=number,
            node=next(iter(nodes.get((host.pk, number), ())), None),
            successor=next(iter(nodes.get((host.pk, number), ())[1:]), None),
            loan=loans.get((host.pk, number)),
            runner=runners.get((host.pk, number), ""),
        )
        for number in sorted(used | set(range(host.n_devices)))
    ]


def _price_changes(classes: Sequence[DeviceClass]) -> dict[int, PriceChange]:
    """The last change of each class whose price was ever changed."""
    found: dict[int, list[ClassPrice]] = {}
    prices = ClassPrice.objects.filter(device_class__in=classes).select_related("set_by").order_by("-pk")
    for price in prices:
        found.setdefault(price.device_class_id, []).append(price)
    return {
        pk: PriceChange(
            before_microcredits=rows[1].price_microcredits_per_device_hour,
            by=rows[0].set_by.username if rows[0].set_by is not None else "",
            at=rows[0].set_at,
        )
        for pk, rows in found.items()
        if len(rows) > 1
    }


def _static_nodes(*, for_maintainers: bool) -> list[StaticNode]:
    return [
        StaticNode(number, _address(url) if for_maintainers else "")
        for number, url in enumerate(settings.MODEL_NODES, start=1)
    ]


def _address(url: str) -> str:
    """Host and port of a URL, without what may be secret in it."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path
