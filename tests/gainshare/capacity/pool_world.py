"""A small pool for tests: a class of devices, hosts whose agents were just heard, and races between threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from django.db import connection
from django.utils import timezone

from gainshare.accounts.models import Role, User
from gainshare.capacity.hosts.tokens import new_token
from gainshare.capacity.models import DeviceClass, Host, Node

MODEL = "tiny"


def make_user(role: str = Role.MAINTAINER) -> User:
    """A user with an unusable password: hashing one would be the slowest part of a test."""
    user = User(username=f"{role}-{uuid4().hex[:8]}", role=role)
    user.set_unusable_password()
    user.save()
    return user


def make_class(name: str = "cpu-small", *, price: int = 1_000_000, **more: Any) -> DeviceClass:
    return DeviceClass.objects.create(name=name, price_microcredits_per_device_hour=price, **more)


def make_host(device_class: DeviceClass, *, devices: int = 1, **more: Any) -> Host:
    """A host whose agent has just spoken."""
    token = new_token()
    values: dict[str, Any] = {
        "name": f"host-{uuid4().hex[:8]}",
        "token_prefix": token.prefix,
        "token_digest": token.digest,
        "n_devices": devices,
        "address": "192.0.2.7",
        "agent": uuid4(),
        "last_seen_at": timezone.now(),
        "heard_since": timezone.now(),
        "created_by": User.objects.filter(role=Role.MAINTAINER).first() or make_user(),
    }
    return Host.objects.create(device_class=device_class, **{**values, **more})


def again(row: Node) -> Node:
    return Node.objects.get(pk=row.pk)


def race(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at once, each in its own thread and connection; their results in order."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=30)
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
