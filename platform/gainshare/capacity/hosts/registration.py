"""Hosts and their tokens: registered, renewed and revoked by maintainers."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.accounts.models import User
from gainshare.capacity.errors import CapacityError, NotAllowed, NotFound
from gainshare.capacity.hosts.addresses import is_address
from gainshare.capacity.hosts.tokens import new_token
from gainshare.capacity.models import LIVE, AgentStart, DeviceClass, Host, Node, NodeState

STARTS_KEPT = timedelta(days=30)


def register_host(
    *, actor: User, name: str, device_class: str, is_exclusive: bool = False, address: str = ""
) -> tuple[Host, str]:
    """Register a host of a class and return it with its token, which is shown only here.

    ``address`` is where the gateway reaches its nodes; empty: where its agent speaks from. Raises CapacityError.
    """
    require_maintainer(actor, "register a host")
    if address and not is_address(address):
        raise CapacityError(
            "The address must be an IP address or a host name, without scheme and port.",
            code="bad_address",
            status=400,
        )
    found = DeviceClass.objects.filter(name=device_class).first()
    if found is None:
        known = ", ".join(DeviceClass.objects.values_list("name", flat=True)) or "none"
        raise NotFound(f"There is no such class of devices. Classes: {known}.")
    token = new_token()
    try:
        with transaction.atomic():
            host = Host.objects.create(
                name=name,
                device_class=found,
                token_prefix=token.prefix,
                token_digest=token.digest,
                is_exclusive=is_exclusive,
                allowed_address=address,
                created_by=actor,
            )
    except IntegrityError:
        raise CapacityError(
            "A host with this name exists. Choose another name, or renew that host's token.",
            code="host_exists",
        ) from None
    return host, token.text


def renew_token(*, actor: User, name: str) -> tuple[Host, str]:
    """Give a host a new token and return it; the old one opens nothing from now on.

    The address from which its agent spoke and the agent's key are forgotten too, so that a host may move. Raises CapacityError.
    """
    require_maintainer(actor, "renew a host's token")
    token = new_token()
    renewed = Host.objects.filter(name=name, revoked_at=None).update(
        token_prefix=token.prefix, token_digest=token.digest, address="", public_key=""
    )
    if not renewed:
        raise _unknown()
    return find_host(name), token.text


def revoke_host(*, actor: User, name: str, reason: str) -> Host:
    """Take a host out of the pool for good: its token opens nothing, and nothing is sent to its nodes.

    Repeating it changes nothing. Raises CapacityError.
    """
    require_maintainer(actor, "revoke a host")
    now = timezone.now()
    with transaction.atomic():
        host = Host.objects.select_for_update().filter(name=name).first()
        if host is None:
            raise _unknown()
        Host.objects.filter(pk=host.pk, revoked_at=None).update(
            revoked_at=now, problem=f"revoked: {reason}"[:500]
        )
        fault_point("capacity.revoke.before_nodes")
        Node.objects.filter(host=host, state__in=LIVE).update(
            state=NodeState.ENDED, ended_at=now, end_reason="its host was revoked", holds_device=True
        )
    return find_host(name)


def forget_starts(now: datetime) -> int:
    """Delete old starts of agents, except those that speak for their hosts now. Returns how many."""
    old = AgentStart.objects.filter(created_at__lt=now - STARTS_KEPT)
    return old.exclude(pk__in=Host.objects.exclude(agent=None).values("agent")).delete()[0]


def find_host(name: str) -> Host:
    """Raises NotFound."""
    host = Host.objects.select_related("device_class").filter(name=name).first()
    if host is None:
        raise _unknown()
    return host


def require_maintainer(actor: User, action: str) -> None:
    """Raises NotAllowed unless the actor is a maintainer; ``action`` completes "Only maintainers can"."""
    if not actor.is_maintainer:
        raise NotAllowed(f"Only maintainers can {action}. Ask a maintainer to give you that role.")


def _unknown() -> NotFound:
    return NotFound("There is no such host, or it was revoked. `gainshare hosts list` shows the hosts.")
