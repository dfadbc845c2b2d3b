"""Branches that went back to a tree from before a merge, or brought that code again. A maintainer decides each."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from bounty.models.submissions import Submission
from bounty.models.trees import Lineage, StoredTree


class ReversalKind(models.TextChoices):
    """What a maintainer is asked."""

    REVERSAL = "reversal", "Reversal"  # the branch left out a merged gain: is its award taken back?
    RESTORATION = "restoration", "Restoration"  # the branch has it again: is its award paid again?


class ReversalState(models.TextChoices):
    """State of the question."""

    OPEN = "open", "Open"
    CONFIRMED = "confirmed", "Confirmed"
    DISMISSED = "dismissed", "Dismissed"  # the award stays as it is; the branch is followed as any push
    ENDED = "ended", "Ended"  # the branch moved on before anybody decided


class Reversal(models.Model):
    """One question about one submission's award. No push answers it: a maintainer other than the pusher does."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="reversals")
    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="reversals")
    kind = models.CharField(max_length=12, choices=ReversalKind.choices)
    commit = models.CharField(max_length=64, help_text="Of the branch, when it was seen.")
    tree = models.ForeignKey(
        StoredTree, on_delete=models.PROTECT, related_name="+", help_text="The folder there."
    )
    state = models.CharField(max_length=10, choices=ReversalState.choices, default=ReversalState.OPEN)
    answer = models.TextField(blank=True)
    answered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["submission"],
                condition=Q(state=ReversalState.OPEN),
                name="one_open_reversal_per_submission",
            ),
            models.UniqueConstraint(
                fields=["submission"],
                condition=Q(state=ReversalState.CONFIRMED, kind=ReversalKind.RESTORATION),
                name="an_award_is_restored_once",
            ),
            models.CheckConstraint(condition=Q(state__in=ReversalState.values), name="reversal_state_known"),
            models.CheckConstraint(condition=Q(kind__in=ReversalKind.values), name="reversal_kind_known"),
            models.CheckConstraint(
                condition=Q(state=ReversalState.OPEN) ^ Q(ended_at__isnull=False),
                name="an_ended_reversal_says_when",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=[ReversalState.CONFIRMED, ReversalState.DISMISSED])
                | Q(answered_by__isnull=False),
                name="an_answer_has_its_maintainer",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.submission_id} ({self.state})"
