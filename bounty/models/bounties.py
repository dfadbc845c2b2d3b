"""Bounties: suite, lineage, hardware, and the price of a nat of speed-up.

The escrow itself is an account of the ledger, named by :attr:`Bounty.escrow_reference`. A bounty's rate never
falls, which a database trigger enforces. Its number comes from a database sequence and never changes, which another
trigger enforces; a number whose transaction was rolled back is left out.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.db.models import F, Func, Q, Value

from benchmarks.catalogue import BUG
from bounty.bounty_numbers import written
from bounty.models.trees import Lineage

PPM = 1_000_000


class BountyState(models.TextChoices):
    """Whether a bounty takes submissions."""

    OPEN = "open", "Open"  # takes submissions
    EXHAUSTED = "exhausted", "Exhausted"  # all escrow is reserved or paid; opens again if some of it returns
    CLOSED = "closed", "Closed"  # takes no more; open submissions are still judged and paid


class Severity(models.TextChoices):
    """Severity of a bug. Each bounty sets its own award for it."""

    LOW = "low", "Low"  # wrong in a rare case
    MEDIUM = "medium", "Medium"  # wrong for some users, with a workaround
    HIGH = "high", "High"  # wrong for many users, or without a workaround
    CRITICAL = "critical", "Critical"  # wrong answers or lost work that no one notices


class Bounty(models.Model):
    """One bounty. An award is ``rate x ln(base time / candidate time)``, at most the escrow's balance.

    A bounty for a bug has a severity and a fixed award instead of a rate; the first reproduction earns a share of it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    number = models.BigIntegerField(
        unique=True,
        editable=False,
        db_default=Func(Value("bounty_number"), function="nextval", output_field=models.BigIntegerField()),
        help_text="People write it as B12.",
    )
    title = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="bounties")
    suite = models.CharField(max_length=60)
    preset = models.CharField(max_length=60)
    hardware = models.SlugField(max_length=60)
    escrow_microcredits = models.BigIntegerField(help_text="Put into escrow when the bounty was opened.")
    rate_microcredits_per_nat = models.BigIntegerField(help_text="0 for a bug, which has an award instead.")
    severity = models.CharField(
        max_length=8, choices=Severity.choices, blank=True, help_text="Of a bug; empty for any other bounty."
    )
    award_microcredits = models.BigIntegerField(
        null=True, blank=True, help_text="For the whole bug: reproduction and fix."
    )
    reproduction_ppm = models.PositiveIntegerField(
        null=True, blank=True, help_text="The reproduction's share of the award, in millionths."
    )
    min_reviewers = models.PositiveSmallIntegerField(default=1)
    two_reviews_above_microcredits = models.BigIntegerField(
        null=True, blank=True, help_text="Awards above this need at least two reviewers."
    )
    review_window_s = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="An unreviewed award vests after this many seconds; empty: it waits for a review.",
    )
    max_attempts = models.PositiveSmallIntegerField(default=10, help_text="Judged attempts per person.")
    deadline_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(max_length=12, choices=BountyState.choices, default=BountyState.OPEN)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    escrow_returned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "bounties"
        constraints = [
            models.CheckConstraint(condition=Q(state__in=BountyState.values), name="bounty_state_known"),
            models.CheckConstraint(condition=Q(escrow_microcredits__gt=0), name="bounty_escrow_positive"),
            models.CheckConstraint(
                condition=Q(
                    suite=BUG.name,
                    severity__in=Severity.values,
                    award_microcredits__gt=0,
                    award_microcredits__lte=F("escrow_microcredits"),
                    reproduction_ppm__lt=PPM,
                    rate_microcredits_per_nat=0,
                    review_window_s__isnull=True,
                    # Explicit, because a check constraint passes when a comparison is null.
                    award_microcredits__isnull=False,
                    reproduction_ppm__isnull=False,
                )
                | (
                    ~Q(suite=BUG.name)
                    & Q(
                        severity="",
                        award_microcredits__isnull=True,
                        reproduction_ppm__isnull=True,
                        rate_microcredits_per_nat__gt=0,
                    )
                ),
                name="bounty_pays_by_rate_or_severity",
            ),
            models.CheckConstraint(condition=Q(min_reviewers__gte=1), name="bounty_has_a_reviewer"),
            models.CheckConstraint(condition=Q(max_attempts__gte=1), name="bounty_allows_an_attempt"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def short_name(self) -> str:
        """`B12`: the number as people write it."""
        return written(self.number)

    @property
    def is_for_a_bug(self) -> bool:
        return self.suite == BUG.name

    @property
    def escrow_reference(self) -> str:
        return f"bounty:{self.pk}"

    def is_past_deadline(self, now: datetime) -> bool:
        return self.deadline_at is not None and self.deadline_at <= now

    @property
    def review_window(self) -> timedelta | None:
        return None if self.review_window_s is None else timedelta(seconds=self.review_window_s)
