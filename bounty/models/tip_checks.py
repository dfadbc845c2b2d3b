"""Scheduled checks of merged trees: is the tree still as fast, over the one before it, as what was paid for it?"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from bounty.models.awards import Award
from bounty.models.runs import Run


class TipCheckOutcome(models.TextChoices):
    """Outcome of a check."""

    OPEN = "open", "Open"  # waits for its run
    KEPT = "kept", "Kept"  # nothing says that the tree lost what was paid for it
    SLOW = "slow", "Slow"  # a second check has to agree before merges stop
    FAILED = "failed", "Failed"  # the tree failed in it: a finding as slow is
    UNCLEAR = "unclear", "Unclear"  # the run ended without figures that count


class TipCheck(models.Model):
    """One check of the tree that ``award`` was paid for. ``repeats`` is the finding that it has to agree with."""

    award = models.ForeignKey(Award, on_delete=models.PROTECT, related_name="tip_checks")
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="tip_check")
    repeats = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="repetitions")
    outcome = models.CharField(max_length=8, choices=TipCheckOutcome.choices, default=TipCheckOutcome.OPEN)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["award"], condition=Q(outcome=TipCheckOutcome.OPEN), name="one_open_tip_check"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=TipCheckOutcome.values), name="tip_check_outcome_known"
            ),
            models.CheckConstraint(
                condition=Q(outcome=TipCheckOutcome.OPEN, ended_at__isnull=True)
                | (~Q(outcome=TipCheckOutcome.OPEN) & Q(ended_at__isnull=False)),
                name="ended_tip_check_says_when",
            ),
            models.CheckConstraint(condition=~Q(repeats=F("pk")), name="tip_check_repeats_another"),
        ]

    def __str__(self) -> str:
        return f"check of award {self.award_id} ({self.outcome})"
