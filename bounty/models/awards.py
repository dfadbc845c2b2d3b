"""Awards of submissions. The money itself moves in the ledger, by the transfers that a row names.

A booked award keeps its amount. When a gain is priced again, its award is voided and another one is booked.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import F, Q

from bounty.models.bounties import Bounty
from bounty.models.reproductions import Reproduction
from bounty.models.runs import Run
from bounty.models.submissions import Submission
from gainshare.accounts.models import User


class AwardState(models.TextChoices):
    """State of an award."""

    RESERVED = "reserved", "Reserved"  # escrow is set aside since the gate passed; no amount yet
    UNVESTED = "unvested", "Unvested"  # the confirmation priced it; unspendable
    VESTED = "vested", "Vested"  # a lot in the contributor's wallet
    # vested for somebody who never signed in to claim it: back in the escrow, though the gain still counts
    RETURNED = "returned", "Returned"
    REVERSED = "reversed", "Reversed"  # vested, then taken back
    VOID = "void", "Void"  # reserved or booked, but never paid: returned to the escrow


class AwardRole(models.TextChoices):
    """Contribution that an award pays."""

    GAIN = "gain", "Gain"  # priced from the confirmed bound
    FIX = "fix", "Fix"  # of a bug
    REPRODUCTION = "reproduction", "Reproduction"  # of the bug that the submission fixes
    SUPPLEMENT = (
        "supplement",
        "Supplement",
    )  # what a gain is worth more since the base it was priced against proved slow


COUNTING = (AwardState.RESERVED, AwardState.UNVESTED, AwardState.VESTED, AwardState.RETURNED)


class Award(models.Model):
    """One award of a submission. At most one per submission and role is not void; void ones stay as history.

    A fix has two awards: its author's, and that of the person who reproduced the bug. They change state together. So do
    a gain's award and its supplements, of which there may be one for each base that proved slow.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="awards")
    role = models.CharField(max_length=12, choices=AwardRole.choices, default=AwardRole.GAIN)
    bug = models.ForeignKey(
        Bounty, on_delete=models.PROTECT, null=True, related_name="+", help_text="The bug that it pays for."
    )
    reproduction = models.ForeignKey(
        Reproduction,
        on_delete=models.PROTECT,
        null=True,
        related_name="awards",
        help_text="That it pays for.",
    )
    gate_run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="+")
    confirmation_run = models.ForeignKey(Run, on_delete=models.PROTECT, null=True, related_name="awards")
    reservation_id = models.UUIDField(unique=True, help_text="The ledger's reserving transfer.")
    transfer_id = models.UUIDField(unique=True, null=True, help_text="The ledger's transfer of the award.")
    reserved_microcredits = models.BigIntegerField()
    amount_microcredits = models.BigIntegerField(null=True)
    rate_microcredits_per_nat = models.BigIntegerField()
    log_ppm_bound = models.BigIntegerField(null=True)
    is_partial = models.BooleanField(default=False, help_text="The escrow held less than the gain is worth.")
    state = models.CharField(max_length=10, choices=AwardState.choices, default=AwardState.RESERVED)
    created_at = models.DateTimeField(auto_now_add=True)
    booked_at = models.DateTimeField(null=True, blank=True)
    series_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Its place in its series: when the submission's first award was booked.",
    )
    vested_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["submission", "role"],
                condition=~Q(state=AwardState.VOID) & ~Q(role=AwardRole.SUPPLEMENT),
                name="one_award_per_submission",
            ),
            models.UniqueConstraint(fields=["confirmation_run", "role"], name="one_award_per_run"),
            models.UniqueConstraint(
                fields=["bug", "role"],
                condition=Q(bug__isnull=False, state__in=COUNTING),
                name="one_bug_is_paid_once",
            ),
            models.CheckConstraint(
                condition=Q(
                    role__in=[AwardRole.GAIN, AwardRole.SUPPLEMENT],
                    bug__isnull=True,
                    reproduction__isnull=True,
                )
                | Q(role=AwardRole.FIX, bug__isnull=False, reproduction__isnull=True)
                | Q(role=AwardRole.REPRODUCTION, bug__isnull=False, reproduction__isnull=False),
                name="award_is_for_something",
            ),
            models.CheckConstraint(condition=Q(state__in=AwardState.values), name="award_state_known"),
            models.CheckConstraint(condition=Q(reserved_microcredits__gt=0), name="award_reserves_something"),
            models.CheckConstraint(
                condition=Q(amount_microcredits__isnull=True)
                | Q(amount_microcredits__gt=0, amount_microcredits__lte=F("reserved_microcredits")),
                name="award_within_reservation",
            ),
            models.CheckConstraint(
                condition=Q(state__in=[AwardState.RESERVED, AwardState.VOID])
                | Q(
                    amount_microcredits__isnull=False,
                    transfer_id__isnull=False,
                    confirmation_run__isnull=False,
                    series_at__isnull=False,
                )
                & (
                    Q(
                        role__in=[AwardRole.GAIN, AwardRole.SUPPLEMENT],
                        log_ppm_bound__isnull=False,
                        log_ppm_bound__gt=0,
                    )
                    | (~Q(role__in=[AwardRole.GAIN, AwardRole.SUPPLEMENT]) & Q(log_ppm_bound__isnull=True))
                ),
                name="booked_award_is_confirmed",
            ),
        ]

    @property
    def recipient(self) -> User:
        """User who is paid."""
        return self.submission.submitter if self.reproduction is None else self.reproduction.author

    def __str__(self) -> str:
        return f"{self.amount_microcredits or 0} micro-credits ({self.state})"
