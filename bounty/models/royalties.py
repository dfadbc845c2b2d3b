"""Gain sharing: a lineage's law, the terms of each gain that is served, and what was paid for each day.

The money itself moves in the ledger, by the transfers that payments name. Database triggers keep these rows: a term
ends once, and nothing else of them changes.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from benchmarks.sharing.royalties import MOST_DAYS, Law
from benchmarks.sharing.savings import MILLION, PRICED_LINES
from bounty.models.submissions import Submission
from bounty.models.trees import Lineage


class SharingLaw(models.Model):
    """A version of a lineage's law. It holds for submissions that were sealed from then on, until the next one."""

    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="laws")
    share_ppm = models.PositiveIntegerField(help_text="The contributor's share of a saving, in millionths.")
    days = models.PositiveSmallIntegerField(help_text="For so many days from when the gain is first served.")
    reason = models.CharField(max_length=300)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(share_ppm__lte=MILLION, days__lte=MOST_DAYS), name="law_in_range"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.share_ppm} millionths for {self.days} days"

    @property
    def terms(self) -> Law:
        return Law(self.share_ppm, self.days)


class EndedBy(models.TextChoices):
    """What ended a term before its time."""

    NOTHING = "", "Nothing"
    REVERSED = "reversed", "Reversed"  # the gain was taken back
    ROLLED_BACK = "rolled_back", "Rolled back"  # its deployment was


class RoyaltyTerm(models.Model):
    """A gain's part of what one deployment saves on one line of a bill, and how long a share of it is paid."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="royalty_terms")
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="royalty_terms"
    )
    deployment = models.ForeignKey("capacity.Deployment", on_delete=models.PROTECT, related_name="+")
    model = models.CharField(max_length=120)
    line = models.CharField(max_length=8, choices=[(line, line) for line in PRICED_LINES])
    saving_ppm = models.PositiveIntegerField(help_text="In millionths of the price before all gains.")
    share_ppm = models.PositiveIntegerField(
        help_text="Of that saving, in millionths, by the law when it was sealed."
    )
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Before its time.")
    ended_by = models.CharField(max_length=12, choices=EndedBy.choices, default=EndedBy.NOTHING, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["starts_at", "created_at", "pk"]
        indexes = [models.Index(fields=["model", "starts_at"])]
        constraints = [
            models.UniqueConstraint(
                fields=["deployment", "submission", "line"], name="royalty_term_once_per_line"
            ),
            models.CheckConstraint(
                condition=Q(saving_ppm__gt=0, saving_ppm__lte=MILLION, share_ppm__lte=MILLION),
                name="royalty_term_in_range",
            ),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="royalty_term_lasts"),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True, ended_by=EndedBy.NOTHING)
                | Q(ended_at__isnull=False, ended_by__in=[EndedBy.REVERSED, EndedBy.ROLLED_BACK]),
                name="royalty_term_says_what_ended_it",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.saving_ppm} millionths of {self.line} for {self.submission_id}"


class RoyaltyDay(models.Model):
    """A day of one model whose royalties are paid. `paid` is what users paid that day from lots that count."""

    model = models.CharField(max_length=120)
    day = models.DateField(help_text="UTC.")
    paid_microcredits = models.BigIntegerField()
    royalties_microcredits = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-day", "model"]
        constraints = [
            models.UniqueConstraint(fields=["model", "day"], name="royalty_day_once"),
            models.CheckConstraint(
                condition=Q(paid_microcredits__gte=0, royalties_microcredits__gte=0)
                & Q(royalties_microcredits__lte=F("paid_microcredits") * 3 / 10),
                name="royalty_day_within_its_revenue",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.royalties_microcredits} of {self.paid_microcredits} for {self.model} on {self.day}"


class RoyaltyPayment(models.Model):
    """What one term earned on one day. Payments of one gain, model and day share a transfer of the ledger."""

    term = models.ForeignKey(RoyaltyTerm, on_delete=models.PROTECT, related_name="payments")
    day = models.DateField(help_text="UTC.")
    amount_microcredits = models.BigIntegerField()
    transfer_id = models.UUIDField(db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-day", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["term", "day"], name="royalty_paid_once_a_day"),
            models.CheckConstraint(condition=Q(amount_microcredits__gt=0), name="royalty_payment_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.amount_microcredits} micro-credits for {self.day}"
