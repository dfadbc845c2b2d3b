"""Bases that may have lost what was paid for them, and a maintainer's answer. While one is open, its lineage merges nothing."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from bounty.models.awards import Award
from bounty.models.runs import Run


class SlowBaseState(models.TextChoices):
    """State of a finding."""

    OPEN = "open", "Open"  # merges wait for a maintainer
    KEPT = (
        "kept",
        "Kept",
    )  # the base is as fast as what was paid for; it is not compared with its old tree again
    SLOW = "slow", "Slow"  # it is slow: its award was taken back


class SlowBase(models.Model):
    """One confirmation that found its base slow, or a check of the merged tree. ``award`` was paid for that tree."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="slow_base")
    award = models.ForeignKey(Award, on_delete=models.PROTECT, related_name="slow_bases")
    state = models.CharField(max_length=4, choices=SlowBaseState.choices, default=SlowBaseState.OPEN)
    answer = models.TextField(blank=True)
    answered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at"]
        indexes = [models.Index(fields=["state", "award"])]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=SlowBaseState.values), name="slow_base_state_known"),
            models.CheckConstraint(
                condition=Q(
                    state=SlowBaseState.OPEN, answer="", answered_by__isnull=True, answered_at__isnull=True
                )
                | (
                    ~Q(state=SlowBaseState.OPEN)
                    & ~Q(answer="")
                    & Q(answered_by__isnull=False, answered_at__isnull=False)
                ),
                name="slow_base_is_answered_with_words",
            ),
        ]

    def __str__(self) -> str:
        return f"base of run {self.run_id} ({self.state})"
