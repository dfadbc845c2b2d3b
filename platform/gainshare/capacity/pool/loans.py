"""Loans of serving devices to judging: taken, renewed, recalled, returned. Every step is one conditional UPDATE.

A runner takes a loan in the transaction that leases its run, so neither exists without the other. What ends a loan
against the runner's will ends its run in the same transaction. The order of locks is run, then loan.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.module_loading import import_string

from benchmarks.faults import fault_point
from gainshare.capacity.models import LENT, DeviceClass, DeviceLoan, Host, LoanState
from gainshare.capacity.pool.offers import needs_loan, offer, offer_idle, withdraw, withdraw_offers

# Ends what a runner measures on a device that is taken from it: (runner, reason) -> None, in the caller's transaction.
EndRuns = Callable[[UUID, str], None]


def is_lent(host_id: UUID, device: int) -> bool:
    """Whether judging has the device. A device that is only offered is free: a node that is ordered there ends the offer."""
    return DeviceLoan.objects.filter(host=host_id, device=device, state__in=LENT).exists()


def take(*, host_id: UUID, device: int, borrower: UUID) -> bool:
    """Give the runner the device if it is on offer. False if it is not, or a node is on it by now."""
    now = timezone.now()
    offered = DeviceLoan.objects.filter(host=host_id, device=device, state=LoanState.OFFERED)
    try:
        with transaction.atomic():
            return bool(
                offered.update(
                    state=LoanState.TAKEN, borrower=borrower, taken_at=now, expires_at=_expiry(now)
                )
            )
    except IntegrityError:  # the database saw a node on the device: see migration 0005
        return False


def renew(*, borrower: UUID) -> DeviceLoan | None:
    """Renew the runner's loan and return it; None if it has none. A recalled loan keeps its time limit."""
    lent = DeviceLoan.objects.filter(borrower=borrower, state__in=LENT)
    lent.update(expires_at=_expiry(timezone.now()))
    return held(borrower=borrower)


def held(*, borrower: UUID) -> DeviceLoan | None:
    """The loan that the runner has now."""
    return DeviceLoan.objects.filter(borrower=borrower, state__in=LENT).first()


def recall(*, host_id: UUID, device: int, reason: str) -> bool:
    """Ask for a device back: an offer ends at once, a runner has `give_back_by` to stop between two pairs.

    False if there was nothing to recall, or it was recalled before: its time limit stays.
    """
    now = timezone.now()
    of_device = DeviceLoan.objects.filter(host=host_id, device=device)
    if withdraw(of_device, now, reason):
        return True
    taken = of_device.filter(state=LoanState.TAKEN)
    recalled = taken.update(state=LoanState.RECALLED, recalled_at=now, recall_reason=reason[:300])
    fault_point("loans.recalled")
    return bool(recalled)


def recall_for(*, device_class: DeviceClass, count: int, reason: str) -> int:
    """Recall up to so many lent devices of a class, the last taken first; return how many. For scaling that finds none free.

    Devices that are on their way back count, so that a call that is repeated recalls no more than the first.
    """
    of_class = DeviceLoan.objects.filter(host__device_class=device_class, state__in=LENT)
    coming = of_class.filter(state=LoanState.RECALLED).count()
    newest = of_class.filter(state=LoanState.TAKEN).order_by("-taken_at")[: max(0, count - coming)]
    found = sum(recall(host_id=loan.host_id, device=loan.device, reason=reason) for loan in newest)
    return min(count, coming + found)


def give_back(*, borrower: UUID, reason: str) -> bool:
    """Return the runner's loan, and offer the device again if it is idle. False if the runner had none."""
    now = timezone.now()
    lent = DeviceLoan.objects.filter(borrower=borrower, state__in=LENT)
    loans = list(lent.select_related("host__device_class"))
    count = sum(_return(loan, now, reason) for loan in loans)
    for loan in loans:
        offer(loan.host, loan.device, now)
    return count > 0


def keep_loans(now: datetime) -> int:
    """What beat does: end loans that are overdue, recall those of leaving hosts, and make offers follow; number of changes."""
    return end_overdue(now) + _recall_unfit() + withdraw_offers(now) + offer_idle(now)


def end_overdue(now: datetime) -> int:
    """End loans that were not renewed, or not given back in time, and what is measured under them; their number."""
    return sum(_take_back(loan, now) for loan in DeviceLoan.objects.filter(_late(now), state__in=LENT))


def _late(now: datetime) -> Q:
    limit = now - timedelta(seconds=settings.LOAN_RECALL_S)
    return Q(expires_at__lte=now) | Q(state=LoanState.RECALLED, recalled_at__lte=limit)


def give_back_by(loan: DeviceLoan) -> datetime | None:
    """Until when the device of a recalled loan must be back; None for any other loan."""
    if loan.state != LoanState.RECALLED or loan.recalled_at is None:
        return None
    return loan.recalled_at + timedelta(seconds=settings.LOAN_RECALL_S)


def end_runs() -> EndRuns:
    """Bounty's function that ends a runner's run; capacity knows it by its setting only."""
    return cast(EndRuns, import_string(settings.DEVICE_BORROWER))


def _take_back(loan: DeviceLoan, now: datetime) -> bool:
    """End one overdue loan with its run, both or neither."""
    was_recalled = loan.state == LoanState.RECALLED
    reason = (
        f"the device was recalled ({loan.recall_reason}) and not given back within {settings.LOAN_RECALL_S} s"
        if was_recalled
        else "the loan of its device was not renewed"
    )
    with transaction.atomic():
        assert loan.borrower is not None, "a constraint holds it"
        end_runs()(loan.borrower, reason)
        fault_point("loans.run_ended")
        if not _return(loan, now, reason, where=_late(now)):
            transaction.set_rollback(
                True
            )  # given back or renewed in this moment: what the runner has now stays
            return False
    fault_point("loans.returned")
    return True


def _return(loan: DeviceLoan, now: datetime, reason: str, where: Q | None = None) -> bool:
    lent = DeviceLoan.objects.filter(where or Q(), pk=loan.pk, state__in=LENT)
    return bool(lent.update(state=LoanState.RETURNED, returned_at=now, end_reason=reason[:300]))


def _recall_unfit() -> int:
    """Recall what is lent on hosts that are about to leave, were revoked, or no longer need loans."""
    taken = DeviceLoan.objects.filter(state=LoanState.TAKEN).select_related("host")
    reasons = [(loan, _why_recalled(loan.host)) for loan in taken]
    return sum(
        recall(host_id=loan.host_id, device=loan.device, reason=reason) for loan, reason in reasons if reason
    )


def _why_recalled(host: Host) -> str:
    if host.revoked_at is not None:
        return "the host's token was revoked"
    if host.leaves_at is not None:
        return "the host is about to leave"
    return "" if needs_loan(host) else "the host's one device is shared from now on"


def _expiry(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.LOAN_LEASE_S)
