"""The emergency stop: three switches, and the merges that wait for one of them to be lifted."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from bounty.models.submissions import Submission


class Switch(models.TextChoices):
    """Parts of the platform that can be stopped separately."""

    JUDGING = "judging", "Judging"  # no lease is granted, running jobs stop and wait in the queue
    AWARDS = "awards", "Awards"  # nothing is booked, nothing vests
    MERGES = "merges", "Merges"  # nothing is merged; requested merges wait


class StopSwitch(models.Model):
    """Present state of a switch. One that was never pressed has no row; earlier changes are in the history."""

    name = models.CharField(max_length=8, primary_key=True, choices=Switch.choices)
    is_stopped = models.BooleanField(default=False)
    reason = models.TextField(blank=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    changed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "stop switches"
        constraints = [
            models.CheckConstraint(condition=Q(name__in=Switch.values), name="switch_known"),
            models.CheckConstraint(
                condition=Q(is_stopped=False)
                | (~Q(reason="") & Q(actor__isnull=False, changed_at__isnull=False)),
                name="a_stop_says_why",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name}: {'stopped' if self.is_stopped else 'running'}"


class WaitingMerge(models.Model):
    """A merge that was requested while merges were stopped. It is done when the stop is lifted, then deleted."""

    submission = models.OneToOneField(Submission, on_delete=models.PROTECT, related_name="waiting_merge")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    asked_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["asked_at"]

    def __str__(self) -> str:
        return f"merge of {self.submission_id}"
