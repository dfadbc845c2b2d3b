"""A host of the pool next to the small world: its devices serve, and are lent to the world's runner."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.utils import timezone

from bounty.models import Runner
from bounty.services.runners.devices import set_device
from gainshare.accounts.models import User
from gainshare.capacity.models import DeviceClass, DeviceLoan, Host, LoanState, Node, NodeState
from gainshare.capacity.pool.offers import offer_idle
from tests.bounty.bounty_world import World


def add_host(actor: User, *, devices: int = 2, class_name: str = "cpu-small", **more: Any) -> Host:
    """A host that was seen now, of a class that is made when it is first named."""
    device_class, _ = DeviceClass.objects.get_or_create(name=class_name, defaults={"hardware": "cpu"})
    return Host.objects.create(
        **{
            "name": f"host-{uuid4().hex[:8]}",
            "device_class": device_class,
            "token_prefix": uuid4().hex[:12],
            "token_digest": "0" * 64,
            "n_devices": devices,
            "last_seen_at": timezone.now(),
            "created_by": actor,
            **more,
        }
    )


def add_node(host: Host, device: int, *, model: str = "demo", **more: Any) -> Node:
    """A node that its agent has started and that answers."""
    return Node.objects.create(
        **{
            "host": host,
            "device": device,
            "model": model,
            "state": NodeState.READY,
            "reason": "a test",
            **more,
        }
    )


def tie(world: World, host: Host, device: int = 0, runner: Runner | None = None) -> Runner:
    """Say as a maintainer that the runner measures on this device."""
    name = (runner or world.runner).name
    tied = set_device(actor=world.mira, name=name, host=host.name, device=device, reason="it is there")
    world.runner.refresh_from_db()
    return tied


def lending_host(world: World, *, devices: int = 2, **more: Any) -> Host:
    """A host with idle devices on offer; the world's runner measures on the first."""
    host = add_host(world.mira, devices=devices, **more)
    tie(world, host)
    offer_idle(timezone.now())
    return host


def loan_of(host: Host, device: int = 0) -> DeviceLoan:
    """The device's newest loan."""
    return DeviceLoan.objects.filter(host=host, device=device).order_by("-offered_at")[0]


def states(host: Host, device: int = 0) -> list[str]:
    """States of the device's loans, oldest first."""
    loans = DeviceLoan.objects.filter(host=host, device=device).order_by("offered_at")
    return list(loans.values_list("state", flat=True))


def later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


OFFERED, TAKEN = LoanState.OFFERED.value, LoanState.TAKEN.value
RECALLED, RETURNED = LoanState.RECALLED.value, LoanState.RETURNED.value
