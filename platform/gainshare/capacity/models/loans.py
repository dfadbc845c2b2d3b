"""Loans: serving devices that judging may use while they are idle."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from gainshare.capacity.models.hosts import Host


class LoanState(models.TextChoices):
    """State of a loan: offered -> taken -> recalled -> returned; an offer or a taken loan may be returned at once."""

    OFFERED = "offered", "Offered"  # the device is idle; a node that is ordered on it ends the offer
    TAKEN = "taken", "Taken"  # a runner measures on it, and no node starts there
    RECALLED = "recalled", "Recalled"  # the runner finishes its pair and gives the device back
    RETURNED = "returned", "Returned"  # over


UNRETURNED = (LoanState.OFFERED, LoanState.TAKEN, LoanState.RECALLED)
LENT = (LoanState.TAKEN, LoanState.RECALLED)


class DeviceLoan(models.Model):
    """One loan of one device. A device has at most one that was not returned, and while it is lent no live node.

    Both are held by the database: a constraint, and triggers of migration 0005.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="loans")
    device = models.PositiveSmallIntegerField(help_text="Number of the host's device, from 0.")
    state = models.CharField(max_length=10, choices=LoanState.choices, default=LoanState.OFFERED)
    borrower = models.UUIDField(null=True, help_text="The runner that took it.")
    reason = models.CharField(max_length=300, help_text="Why it was offered.")
    recall_reason = models.CharField(max_length=300, blank=True)
    end_reason = models.CharField(max_length=300, blank=True)
    offered_at = models.DateTimeField(auto_now_add=True)
    taken_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True, help_text="Renewed by the runner's heartbeats.")
    recalled_at = models.DateTimeField(null=True)
    returned_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["offered_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "device"], condition=Q(state__in=UNRETURNED), name="loan_one_of_a_device"
            ),
            models.CheckConstraint(condition=Q(state__in=LoanState.values), name="loan_state_known"),
            models.CheckConstraint(
                condition=~Q(state__in=LENT)
                | Q(borrower__isnull=False, taken_at__isnull=False, expires_at__isnull=False),
                name="loan_lent_has_borrower",
            ),
            models.CheckConstraint(
                condition=~Q(state=LoanState.RECALLED) | Q(recalled_at__isnull=False),
                name="loan_recalled_has_time",
            ),
            models.CheckConstraint(
                condition=Q(state=LoanState.RETURNED, returned_at__isnull=False)
                | (~Q(state=LoanState.RETURNED) & Q(returned_at__isnull=True)),
                name="loan_returned_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"loan of {self.host}:{self.device} ({self.state})"
