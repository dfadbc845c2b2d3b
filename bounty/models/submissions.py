"""Submissions: one patch of one person for one bounty, and the reviews of it."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from benchmarks.judging.verdicts import VerdictKind
from bounty.models.bounties import Bounty
from bounty.models.trees import StoredTree


class SubmissionState(models.TextChoices):
    """State of a submission. `bounty.services.transitions` lists the allowed changes."""

    RECEIVED = "received", "Received"  # the diff is stored, not checked yet
    CHECKED = "checked", "Checked"  # parsed, within the policy, applies; a copy waits here for its original
    REJECTED = "rejected", "Rejected"  # one of these failed, or it is a copy; it is never run
    QUEUED = "queued", "Queued"  # its gate run waits for a runner
    JUDGING = "judging", "Judging"  # a runner has its gate run
    JUDGED = "judged", "Judged"  # has a verdict: the gate's, or that of a later run that failed
    # The gate passed, escrow is reserved: a second run prices it, then its guard rails are measured. Also while a
    # booked award is priced again, since the best tree moved or a maintainer ordered it
    CONFIRMING = "confirming", "Confirming"
    CONFIRMED = "confirmed", "Confirmed"  # the award is booked, unvested, and waits for a review
    ACCEPTED = "accepted", "Accepted"  # enough other people accepted; waits for the merge
    DECLINED = "declined", "Declined"  # a reviewer declined; a booked award went back to escrow
    VESTED = "vested", "Vested"  # the award is spendable
    REVERSED = "reversed", "Reversed"  # the award was taken back
    WITHDRAWN = "withdrawn", "Withdrawn"  # its author withdrew it


class NextStep(models.TextChoices):
    """Next automatic step of a judged submission."""

    NONE = "", "None"  # nothing more to do
    RESERVE = "reserve", "Reserve"  # reserve escrow and order the confirmation now
    AWAIT_ESCROW = "await_escrow", "Await escrow"  # the same, as soon as the escrow has credits again


class ReviewDecision(models.TextChoices):
    """Decision of a reviewer."""

    ACCEPT = "accept", "Accept"
    DECLINE = "decline", "Decline"


VERDICT_CHOICES = [(kind.value, kind.value.replace("_", " ")) for kind in VerdictKind]


class Submission(models.Model):
    """A unified diff against ``base_tree``. ``verdict_kind`` is the last verdict; runs keep their own."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    bounty = models.ForeignKey(Bounty, on_delete=models.PROTECT, related_name="submissions")
    submitter = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="submissions"
    )
    diff_blob = models.CharField(max_length=64, help_text="SHA-256 of the diff as sent, in the blob store.")
    patch_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the normalised patch.")
    code_digest = models.CharField(
        max_length=64, blank=True, help_text="Of the candidate's code without comments and layout."
    )
    base_tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    candidate_tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, null=True, related_name="+")
    copy_of = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="copies")
    state = models.CharField(max_length=12, choices=SubmissionState.choices, default=SubmissionState.RECEIVED)
    verdict_kind = models.CharField(max_length=24, choices=VERDICT_CHOICES, blank=True)
    verdict_reason = models.TextField(blank=True)
    verdict_run = models.ForeignKey(
        "bounty.Run",
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The run that the verdict rests on; none where nothing was run.",
    )
    next_step = models.CharField(max_length=16, choices=NextStep.choices, default=NextStep.NONE, blank=True)
    sealed_at = models.DateTimeField(
        default=timezone.now, editable=False, help_text="Decides which of two copies is the first."
    )
    judged_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    merged_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-sealed_at"]
        indexes = [
            models.Index(fields=["state", "next_step"]),
            models.Index(fields=["patch_digest"]),
            models.Index(fields=["code_digest"]),
            models.Index(fields=["bounty", "submitter"]),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=SubmissionState.values), name="submission_state_known"
            ),
            models.CheckConstraint(
                condition=Q(verdict_kind="") | Q(verdict_kind__in=[kind.value for kind in VerdictKind]),
                name="submission_verdict_known",
            ),
            models.CheckConstraint(
                condition=Q(candidate_tree__isnull=False)
                | Q(state__in=[SubmissionState.RECEIVED, SubmissionState.REJECTED]),
                name="submission_has_candidate_once_checked",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk} ({self.state})"

    @property
    def has_verdict(self) -> bool:
        """Whether it has a verdict without a further step. Who may see it is decided in `bounty.services.access`."""
        undecided = self.state == SubmissionState.CONFIRMING or self.next_step == NextStep.RESERVE
        return bool(self.verdict_kind) and not undecided


class Review(models.Model):
    """One person's decision on one submission's measured candidate. Never by its author."""

    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="reviews")
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    candidate_tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    decision = models.CharField(max_length=8, choices=ReviewDecision.choices)
    comment = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["submission", "reviewer", "candidate_tree"],
                name="one_review_per_person_and_candidate",
            ),
            models.CheckConstraint(
                condition=Q(decision__in=ReviewDecision.values), name="review_decision_known"
            ),
        ]
