"""Classes of devices as a policy sees them: what the gateway measured of a served model on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
from django.conf import settings
from django.db.models import Max, Q, QuerySet, Sum

from gainshare.capacity.lengths import Lengths, recent_lengths
from gainshare.capacity.models import LIVE, ActuatorName, DeviceClass, Host, Node, NodeState, ServedModel
from gainshare.capacity.policies.observed import ClassFacts
from gainshare.capacity.policies.service_times import ServiceTimes, described
from gainshare.capacity.routing.estimates import work_tokens
from gainshare.capacity.routing.rates import Rates, measured
from gainshare.capacity.scaling.cold_starts import cold_start_s

MOST_REQUESTS = 2_000  # the latest, whose lengths count
LEAST_REQUESTS = 30  # with fewer, nothing is said of single requests
STEP_TOKENS = 256  # of a prompt that a node reads in one step, by its default


def facts_of(classes: Sequence[DeviceClass], served: ServedModel, now: datetime) -> tuple[ClassFacts, ...]:
    """The classes that the model may use, each with how it serves the model's latest requests."""
    lengths = recent_lengths(served.name, MOST_REQUESTS)
    return with_assumed_rates([_facts(one, served, lengths, now) for one in classes])


def _facts(
    device_class: DeviceClass, served: ServedModel, lengths: Sequence[Lengths], now: datetime
) -> ClassFacts:
    """The class as a policy sees it; ``max_nodes`` is what is left for this model."""
    rates = measured(served.name, device_class.name)
    facts = ClassFacts(
        name=device_class.name,
        price=projected_price(device_class, served.name),
        slots=served.slots,
        requests_per_s=rates.requests_per_s,
        cold_start_s=cold_start_s(device_class, served.name),
        max_nodes=room_for(device_class, served, now),
        is_preemptible=device_class.is_preemptible,
    )
    times = service_times(rates, lengths)
    return facts if times is None else described(facts, times, served.token_p99_ms / 1000)


def projected_price(device_class: DeviceClass, model: str) -> int:
    """The most that a node of the class costs in an hour: its price, or that of the start of one of the model's nodes.

    A node costs what its class cost when it was started, so a lower price saves nothing before such nodes have ended.
    Those that drain are left out, because `costs.ending_cost` has them.
    """
    nodes = Node.objects.filter(
        host__device_class=device_class, model=model, state__in=(NodeState.STARTING, NodeState.READY)
    )
    started = nodes.aggregate(most=Max("price_microcredits_per_device_hour"))["most"]
    return max(device_class.price_microcredits_per_device_hour, started or 0)


def service_times(rates: Rates, lengths: Sequence[Lengths]) -> ServiceTimes | None:
    """How long a node with these rates takes for such requests; None where too little was measured. Pure.

    A prompt's cached tokens need no time. Where no request was ever alone, a token takes as long as it did on average.
    """
    prefill, decode = rates.prefill_tokens_per_s, rates.alone_tokens_per_s or rates.decode_tokens_per_s
    if len(lengths) < LEAST_REQUESTS or prefill <= 0 or decode <= 0:
        return None
    fresh = np.array([row.prompt_tokens - row.cached_tokens for row in lengths])
    full = rates.full_tokens_per_s
    return ServiceTimes(
        np.array([work_tokens(0, tokens) for tokens in fresh]) / prefill,
        np.maximum(1, -(-fresh // STEP_TOKENS)),
        np.array([row.output_tokens for row in lengths]),
        1 / decode,
        1 / min(full, decode) if full > 0 else 0.0,
    )


def with_assumed_rates(classes: Sequence[ClassFacts]) -> tuple[ClassFacts, ...]:
    """The classes, where one that was never measured does as the slowest of the others.

    Without an assumption it would never be used where another class answers all requests, and so never be measured.
    """
    known = [facts for facts in classes if facts.requests_per_s > 0]
    if not known:
        return tuple(classes)
    slowest = min(known, key=lambda facts: facts.requests_per_s)
    return tuple(facts if facts.requests_per_s > 0 else _as_fast_as(slowest, facts) for facts in classes)


def _as_fast_as(other: ClassFacts, facts: ClassFacts) -> ClassFacts:
    return replace(
        other,
        name=facts.name,
        price=facts.price,
        slots=facts.slots,
        cold_start_s=facts.cold_start_s,
        max_nodes=facts.max_nodes,
        is_preemptible=facts.is_preemptible,
    )


def room_for(device_class: DeviceClass, served: ServedModel, now: datetime) -> int:
    """Nodes that the model may have of the class: its limit, less other models' nodes, and no more than devices exist.

    The devices of hosts that are leaving or silent do not count, except those that the model has. An actuator that
    brings hosts itself is limited by the class alone.
    """
    live = Node.objects.filter(host__device_class=device_class, state__in=LIVE)
    room = device_class.max_nodes - _devices_of(live.exclude(model=served.name))
    if served.actuator == ActuatorName.LOCAL:
        room = min(room, _devices_for(device_class, served, now))
    return max(room, 0)


def _devices_for(device_class: DeviceClass, served: ServedModel, now: datetime) -> int:
    """Devices that the model's nodes have or could have."""
    seen = now - timedelta(seconds=settings.HOST_LOST_S)
    hosts = Host.objects.filter(
        device_class=device_class, revoked_at=None, leaves_at=None, last_seen_at__gt=seen
    )
    devices = hosts.aggregate(sum=Sum("n_devices"))["sum"] or 0
    nodes = Node.objects.filter(Q(state__in=LIVE) | Q(holds_device=True), host__device_class=device_class)
    own = Q(model=served.name, state__in=LIVE)
    taken = _devices_of(nodes.filter(host__in=hosts).exclude(own))
    elsewhere = _devices_of(nodes.filter(own).exclude(host__in=hosts))
    return devices - taken + elsewhere


def _devices_of(nodes: QuerySet[Node]) -> int:
    """Devices that these nodes have; two of one device are a node and its successor."""
    return nodes.order_by().values("host", "device").distinct().count()
