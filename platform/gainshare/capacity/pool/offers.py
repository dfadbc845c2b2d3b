"""Offers: serving devices that judging may have, because nothing serves on them and nothing is wanted there."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from gainshare.capacity.models import LIVE, UNRETURNED, DeviceClass, DeviceLoan, Host, LoanState, Node
from gainshare.capacity.pool.demand import is_wanted

IDLE = "no node is on it and none is wanted"


def needs_loan(host: Host) -> bool:
    """Whether a runner on this host measures only on a device that it has on loan. One device is shared by both."""
    return host.is_exclusive or host.n_devices > 1


def offer_idle(now: datetime) -> int:
    """Offer every idle device; return the number of new offers."""
    hosts = Host.objects.select_related("device_class")
    return sum(offer(host, device, now) for host in hosts for device in range(host.n_devices))


def offer(host: Host, device: int, now: datetime) -> bool:
    """Offer one device if it is idle now. False if it is not, or is offered or lent already."""
    if hindrance(host, device, now):
        return False
    if DeviceLoan.objects.filter(host=host, device=device, state__in=UNRETURNED).exists():
        return False
    try:
        with transaction.atomic():
            DeviceLoan.objects.create(host=host, device=device, reason=IDLE)
    except IntegrityError:  # offered by another process in this moment
        return False
    return True


def withdraw_offers(now: datetime) -> int:
    """Return offers of devices that are no longer idle; return their number."""
    count = 0
    for loan in DeviceLoan.objects.filter(state=LoanState.OFFERED).select_related("host__device_class"):
        if reason := hindrance(loan.host, loan.device, now):
            count += withdraw(DeviceLoan.objects.filter(pk=loan.pk), now, reason)
    return count


def withdraw(loans: QuerySet[DeviceLoan], now: datetime, reason: str) -> int:
    """Return those of the loans that are only offered; return their number."""
    offered = loans.filter(state=LoanState.OFFERED)
    return offered.update(state=LoanState.RETURNED, returned_at=now, end_reason=reason)


def hindrance(host: Host, device: int, now: datetime) -> str:
    """Why the device is not offered; empty if it may be."""
    if not needs_loan(host):
        return "the host's one device is shared by serving and judging"
    if host.revoked_at is not None:
        return "the host's token was revoked"
    if host.leaves_at is not None:
        return "the host is about to leave"
    if host.last_seen_at is None or host.last_seen_at < now - timedelta(seconds=settings.HOST_LOST_S):
        return "the host is silent, so it is not known whether the device is free"
    if device >= host.n_devices:
        return "the host no longer has this device"
    on_it = Node.objects.filter(host=host, device=device)
    if on_it.filter(state__in=LIVE).exists():
        return "a node is on it"
    if on_it.filter(holds_device=True).exists():
        return "a node that ended still holds it, as far as its agent has said"
    if _was_busy(host, device, now):
        return "a node was on it, or serving wanted a device of its class, only a moment ago"
    return "a node of its class is wanted" if is_wanted(host.device_class) else ""


def _was_busy(host: Host, device: int, now: datetime) -> bool:
    """Whether serving used the device, or recalled one of its class, within the quiet time."""
    since = now - timedelta(seconds=settings.LOAN_QUIET_S)
    return (
        Node.objects.filter(host=host, device=device, ended_at__gt=since).exists()
        or recalled_of(host.device_class).filter(recalled_at__gt=since).exists()
    )


def recalled_of(device_class: DeviceClass) -> QuerySet[DeviceLoan]:
    """Loans of the class's devices that were recalled at some time."""
    return DeviceLoan.objects.filter(host__device_class=device_class, recalled_at__isnull=False)
