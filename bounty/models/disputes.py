"""Disputes: a contributor's objection to a verdict, and a maintainer's answer.

The objection never changes, and it is answered once; a database trigger enforces both.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from benchmarks.judging.verdicts import VerdictKind
from bounty.models.runs import Run
from bounty.models.submissions import VERDICT_CHOICES, Submission


class DisputeState(models.TextChoices):
    """State of a dispute."""

    OPEN = "open", "Open"  # waits for a maintainer other than the author
    UPHELD = "upheld", "Upheld"  # the verdict stays
    REMEASURED = (
        "remeasured",
        "Measured again",
    )  # another run was ordered, with new secrets; its verdict counts
    OVERTURNED = "overturned", "Overturned"  # the verdict was wrong and no longer counts


class Dispute(models.Model):
    """One objection of an author to one verdict. ``run`` is the run behind the verdict, if there was one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="disputes")
    run = models.ForeignKey(Run, on_delete=models.PROTECT, null=True, related_name="disputes")
    verdict_kind = models.CharField(max_length=24, choices=VERDICT_CHOICES)
    verdict_reason = models.TextField(help_text="The verdict's words at the time.")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    text = models.TextField()
    state = models.CharField(max_length=12, choices=DisputeState.choices, default=DisputeState.OPEN)
    answer = models.TextField(blank=True)
    answered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    ordered_run = models.ForeignKey(Run, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at"]
        indexes = [models.Index(fields=["state", "created_at"])]
        constraints = [
            models.UniqueConstraint(
                fields=["submission", "run"],
                condition=Q(state=DisputeState.OPEN),
                nulls_distinct=False,
                name="one_open_dispute_per_verdict",
            ),
            models.CheckConstraint(condition=Q(state__in=DisputeState.values), name="dispute_state_known"),
            models.CheckConstraint(
                condition=Q(verdict_kind__in=[kind.value for kind in VerdictKind]),
                name="dispute_verdict_known",
            ),
            models.CheckConstraint(condition=~Q(text=""), name="dispute_says_why"),
            models.CheckConstraint(
                condition=Q(
                    state=DisputeState.OPEN, answer="", answered_by__isnull=True, answered_at__isnull=True
                )
                | (
                    ~Q(state=DisputeState.OPEN)
                    & ~Q(answer="")
                    & Q(answered_by__isnull=False, answered_at__isnull=False)
                ),
                name="dispute_is_answered_with_words",
            ),
            models.CheckConstraint(
                condition=Q(answered_by__isnull=True) | ~Q(answered_by=F("author")),
                name="nobody_answers_their_own_dispute",
            ),
        ]

    def __str__(self) -> str:
        return f"dispute of {self.submission_id} ({self.state})"
