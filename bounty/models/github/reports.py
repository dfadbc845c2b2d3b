"""What a pull request is told: its one comment, and the check runs of its heads."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from bounty.models.github.pull_requests import Head, PullRequest


class ReportKind(models.TextChoices):
    """Kind of a report."""

    COMMENT = "comment", "Comment"
    CHECK = "check", "Check run"


class Report(models.Model):
    """One comment or check run on GitHub. ``subject`` says what it is about: one of each pull request, head and subject.

    Sent is what ``sent_digest`` names. A final check run is written down before it is sent, and a database trigger keeps it
    as it is. ``due_at`` holds one report back; ``look_at``, of the comment, is when the whole pull request is looked at.
    """

    kind = models.CharField(max_length=8, choices=ReportKind.choices)
    pull_request = models.ForeignKey(PullRequest, on_delete=models.PROTECT, related_name="reports")
    head = models.ForeignKey(Head, on_delete=models.PROTECT, null=True, blank=True, related_name="reports")
    subject = models.CharField(
        max_length=80, help_text="`verdict`, or what came after it, such as `reversal:7`."
    )
    github_id = models.BigIntegerField(
        null=True, blank=True, help_text="GitHub's number of it, once it is there."
    )
    sent_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of what GitHub has.")
    is_final = models.BooleanField(default=False)
    outcome = models.CharField(
        max_length=80, blank=True, help_text="What a final check run tells, by `outcomes.Outcome.key`."
    )
    final_fields = models.JSONField(
        null=True, blank=True, help_text="Of a final check run: what is sent, written down before it is."
    )
    told_at = models.DateTimeField(null=True, blank=True, help_text="When a final one was written down.")
    sent_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(
        null=True, blank=True, help_text="Not sent before; empty: it is not held back."
    )
    look_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Of a comment: when its pull request is compared with what was sent; empty: after the next change.",
    )
    attempts = models.PositiveIntegerField(default=0)
    problem = models.TextField(blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=ReportKind.values), name="report_kind_known"),
            models.CheckConstraint(
                condition=Q(kind=ReportKind.COMMENT, head=None)
                | Q(kind=ReportKind.CHECK, head__isnull=False),
                name="a_check_run_has_a_head",
            ),
            models.UniqueConstraint(
                fields=["pull_request", "head", "subject"],
                nulls_distinct=False,
                name="one_report_per_head_and_subject",
            ),
            models.CheckConstraint(
                condition=Q(is_final=False, final_fields__isnull=True, outcome="")
                | Q(is_final=True, kind=ReportKind.CHECK, final_fields__isnull=False) & ~Q(outcome=""),
                name="a_final_check_is_written_down",
            ),
        ]
        indexes = [
            models.Index(
                fields=["look_at"], condition=Q(look_at__isnull=False), name="bounty_report_to_look_at"
            )
        ]

    def __str__(self) -> str:
        return f"{self.pull_request}: {self.kind} {self.subject}"
