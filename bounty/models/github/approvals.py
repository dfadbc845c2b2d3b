"""Reviews on GitHub that accept a measured head, each by GitHub's number of the review."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from bounty.models.github.pull_requests import Head
from bounty.models.submissions import Review
from bounty.models.trees import StoredTree


class ApprovalState(models.TextChoices):
    """What a review on GitHub says."""

    APPROVED = "approved", "Approved"
    CHANGES = "changes_requested", "Changes requested"
    DISMISSED = "dismissed", "Dismissed"  # for good: a late event does not bring it back


class Approval(models.Model):
    """One review of one head. ``counted_as`` is the acceptance that it became."""

    review_id = models.BigIntegerField(primary_key=True)
    head = models.ForeignKey(Head, on_delete=models.PROTECT, related_name="approvals")
    github_id = models.BigIntegerField(help_text="GitHub's number of its author.")
    state = models.CharField(max_length=20, choices=ApprovalState.choices)
    candidate_tree = models.ForeignKey(
        StoredTree,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The head's candidate when the review was seen: it counts for no other.",
    )
    submitted_at = models.DateTimeField()
    counted_as = models.OneToOneField(
        Review, on_delete=models.SET_NULL, null=True, blank=True, related_name="approval"
    )
    problem = models.TextField(blank=True, help_text="Why it does not count, in words.")

    class Meta:
        ordering = ["submitted_at", "review_id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=ApprovalState.values), name="approval_state_known")
        ]

    def __str__(self) -> str:
        return f"{self.review_id}: {self.state}"
