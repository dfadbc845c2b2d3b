"""Carries out wanted counts on a Ray cluster: each host of the model is a detached actor that runs a node agent.

An actor asks for one unit of the custom resource that is named as the device class, so Ray chooses the machine, and its
autoscaler, where there is one, brings machines. Ray itself is spoken to in a process of its own
(`ray_program`), because its client must not run in a worker.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.capacity.hosts.tokens import new_token
from gainshare.capacity.models import (
    LIVE,
    DeviceClass,
    EngineHost,
    Host,
    Node,
    NodeState,
    ScalingState,
    ServedModel,
)
from gainshare.capacity.scaling.actuators.interface import Outcome, Plan
from gainshare.capacity.scaling.actuators.local import LocalActuator
from gainshare.capacity.scaling.actuators.ray_failures import failure_of, paused_until
from gainshare.capacity.scaling.records import note, state_of

PROGRAM = "gainshare.capacity.scaling.actuators.ray_program"
NAMESPACE = "gainshare"
ASK_S = 15  # seconds between two looks at an unchanged cluster
ASK_PENDING_S = 4  # the same while a machine for an actor is still looked for
PROGRAM_S = 120  # most seconds for one talk with the cluster
PREFIX = "ray-"

Actors = Mapping[str, Mapping[str, Any]]  # as `ray_program` prints them


class RayActuator:
    """Makes and revokes hosts as wanted; orders and drains nodes on them as on all others."""

    name = "ray"

    def carry_out(self, served: ServedModel, plan: Plan) -> Outcome:
        for device_class in DeviceClass.objects.filter(name__in=list(plan.wanted)):
            _want_hosts(served, device_class, plan.wanted[device_class.name])
        outcome = LocalActuator().carry_out(served, plan)
        return Outcome(outcome.actions, _problem(served, plan.wanted) or outcome.problem)

    def settle(self, served: ServedModel, now: datetime) -> None:
        if not _is_due(served, now):
            return
        told = told_to(served, now)
        fault_point("capacity.ray.told")
        actors = talk(told)
        fault_point("capacity.ray.answered")
        if strays := heard(served, now, told, actors):
            talk({**told, "start": [], "stop": strays})


def hosts_of(served: ServedModel) -> QuerySet[EngineHost]:
    """The model's hosts in the cluster that have not been given back."""
    return EngineHost.objects.filter(served=served, host__revoked_at=None).select_related(
        "host__device_class"
    )


def told_to(served: ServedModel, now: datetime) -> dict[str, Any]:
    """What the cluster is told: hosts to start, each with a fresh token, and hosts to stop.

    The token of an earlier, unconfirmed start is void: the program replaces what that start may have left.
    """
    start = []
    for one in hosts_of(served).filter(started_at=None):
        token = new_token()
        Host.objects.filter(pk=one.pk).update(
            token_prefix=token.prefix, token_digest=token.digest, public_key=""
        )
        start.append(_start_of(one.host, token.text))
    stop = EngineHost.objects.filter(served=served, host__revoked_at__isnull=False, gone_at=None)
    return {
        "address": settings.RAY_ADDRESS,
        "namespace": NAMESPACE,
        "start": start,
        "stop": list(stop.values_list("host__name", flat=True)),
    }


def talk(told: dict[str, Any]) -> Actors:
    """The cluster's actors by name, after it was told. Raises RayFailed."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", PROGRAM],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            timeout=PROGRAM_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RayFailed(f"the Ray cluster at {told['address']} gave no answer in {PROGRAM_S} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RayFailed(f"the Ray cluster at {told['address']} cannot be used: {lines[-1]}")
    actors: Actors = json.loads(done.stdout)["actors"]
    return actors


def heard(served: ServedModel, now: datetime, told: dict[str, Any], actors: Actors) -> list[str]:
    """Note what the cluster has, and give back hosts whose agent is no more. Returns actors that are not wanted."""
    started = [one["name"] for one in told["start"] if one["name"] in actors]
    EngineHost.objects.filter(served=served, host__name__in=started).update(started_at=now)
    gone = [name for name in told["stop"] if name not in actors]
    EngineHost.objects.filter(served=served, host__name__in=gone).update(gone_at=now)
    _note_addresses(served, actors)
    failures = []
    for one in hosts_of(served).filter(started_at__isnull=False):
        if failure := failure_of(one, actors.get(one.host.name), now):
            _give_up(one, failure, now)
            failures.append(f"{one.host.name}: {failure}")
    note(served.pk, engine_failure="; ".join(failures))
    state_of(served)
    ScalingState.objects.filter(served=served).update(settled_at=now)
    # An actor of a host that was gone is none of ours: a late start of a killed worker may have brought it back.
    there = EngineHost.objects.filter(host__name__in=list(actors), gone_at=None)
    known = set(there.values_list("host__name", flat=True))
    return [name for name in actors if name.startswith(PREFIX) and name not in known]


def _give_up(one: EngineHost, failure: str, now: datetime) -> None:
    """Revoke a host, and end its nodes: no agent will say what became of them."""
    Host.objects.filter(pk=one.pk, revoked_at=None).update(revoked_at=now, problem=failure)
    Node.objects.filter(host=one.pk, state__in=LIVE).update(
        state=NodeState.ENDED, ended_at=now, end_reason=f"its host was given up: {failure}", holds_device=True
    )


def _note_addresses(served: ServedModel, actors: Actors) -> None:
    """Nodes are reached where Ray says that the actor is: the cluster, and not its agent, is trusted with that."""
    for one in hosts_of(served).filter(host__allowed_address=""):
        if address := actors.get(one.host.name, {}).get("address"):
            Host.objects.filter(pk=one.pk).update(allowed_address=address)


class RayFailed(Exception):
    """The cluster could not be reached, or Ray is not installed here."""


def _is_due(served: ServedModel, now: datetime) -> bool:
    """Whether there is something to tell the cluster, or its last word is old."""
    mine = EngineHost.objects.filter(served=served, gone_at=None)
    if mine.filter(Q(started_at=None, host__revoked_at=None) | Q(host__revoked_at__isnull=False)).exists():
        return True
    last = ScalingState.objects.filter(served=served).values_list("settled_at", flat=True).first()
    is_pending = mine.filter(host__allowed_address="").exists()
    every = timedelta(seconds=ASK_PENDING_S if is_pending else ASK_S)
    return mine.exists() and (last is None or now - last >= every)


def _start_of(host: Host, token: str) -> dict[str, Any]:
    return {
        "name": host.name,
        "resource": host.device_class.name,
        "gpus": 1 if "cuda" in settings.RAY_AGENT_COMMAND else 0,
        "command": settings.RAY_AGENT_COMMAND,
        "url": settings.PUBLIC_URL,
        "token": token,
    }


def _problem(served: ServedModel, wanted: Mapping[str, int]) -> str:
    """Why hosts that are wanted are not there yet; empty: they are."""
    if waiting := hosts_of(served).filter(host__last_seen_at=None).count():
        return f"the Ray cluster has still to start {waiting} of the hosts"
    for device_class in DeviceClass.objects.filter(
        name__in=[name for name, count in wanted.items() if count]
    ):
        if until := paused_until(served, device_class, timezone.now()):
            return f"the latest hosts of {device_class} failed; next try at {until:%H:%M:%S} UTC"
    return ""


def _want_hosts(served: ServedModel, device_class: DeviceClass, wanted: int) -> None:
    """Make the missing hosts of a class, and give back those above the count that have no node."""
    hosts = list(hosts_of(served).filter(host__device_class=device_class).order_by("-host__created_at"))
    staying = [one for one in hosts if one.host.leaves_at is None]
    missing = wanted - len(staying)
    if missing > 0 and not paused_until(served, device_class, timezone.now()):
        for _ in range(missing):
            _make_host(served, device_class)
    holding = Node.objects.filter(
        Q(state__in=LIVE) | Q(holds_device=True), host__in=[one.pk for one in hosts]
    )
    busy = set(holding.values_list("host", flat=True))
    left = [one.pk for one in hosts if one.host.leaves_at is not None and one.pk not in busy]
    spare = [one.pk for one in staying if one.pk not in busy][: max(len(staying) - wanted, 0)]
    Host.objects.filter(pk__in=left + spare, revoked_at=None).update(revoked_at=timezone.now())


def _make_host(served: ServedModel, device_class: DeviceClass) -> None:
    assert served.changed_by is not None, "a maintainer has set a served model that uses Ray"
    token = new_token()  # replaced when the cluster is told
    host = Host(
        device_class=device_class,
        token_prefix=token.prefix,
        token_digest=token.digest,
        created_by=served.changed_by,
    )
    host.name = f"{PREFIX}{device_class.name}-{host.id.hex[:12]}"
    host.save()
    EngineHost.objects.create(host=host, served=served)
