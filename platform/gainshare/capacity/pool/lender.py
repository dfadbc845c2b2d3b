"""The interface through which bounty asks for devices. Named in settings as DEVICE_LENDER."""

from __future__ import annotations

from uuid import UUID

from django.utils import timezone

from gainshare.capacity.models import Host
from gainshare.capacity.pool import loans
from gainshare.capacity.pool.offers import needs_loan


class DeviceLender:
    """Lends devices of hosts to runners. Hosts and runners are ids; a device is its number on the host."""

    def find_host(self, name: str) -> UUID | None:
        """The id of the host of this name that is not revoked; None if there is none."""
        return Host.objects.filter(name=name, revoked_at=None).values_list("pk", flat=True).first()

    def host_name(self, host_id: UUID) -> str:
        """Name of the host; empty if there is none."""
        return Host.objects.filter(pk=host_id).values_list("name", flat=True).first() or ""

    def is_needed(self, host_id: UUID) -> bool:
        """Whether a runner on this host needs a loan; on a host with one device that is not exclusive both share it."""
        host = Host.objects.filter(pk=host_id).first()
        return host is not None and needs_loan(host)

    def take(self, host_id: UUID, device: int, runner_id: UUID) -> bool:
        """Give the runner the device if it is on offer."""
        return loans.take(host_id=host_id, device=device, borrower=runner_id)

    def renew(self, host_id: UUID, device: int, runner_id: UUID) -> float | None:
        """Renew the runner's loan: seconds in which it must give the device back, None if it may go on.

        0 if it has no loan of this device.
        """
        loan = loans.renew(borrower=runner_id)
        if loan is None or (loan.host_id, loan.device) != (host_id, device):
            return 0.0
        limit = loans.give_back_by(loan)
        return None if limit is None else max(0.0, (limit - timezone.now()).total_seconds())

    def recall_reason(self, runner_id: UUID) -> str | None:
        """Why the runner's device was recalled; empty if it was not, None if it has none on loan."""
        loan = loans.held(borrower=runner_id)
        return loan.recall_reason if loan is not None else None

    def give_back(self, runner_id: UUID, reason: str) -> bool:
        """Return the runner's loan. False if it had none."""
        return loans.give_back(borrower=runner_id, reason=reason)
