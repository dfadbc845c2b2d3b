"""What a bound branch brought: submissions whose code is on it, and who pushed which commit."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from bounty.models.github.installations import GitHubRepository
from bounty.models.submissions import Submission
from bounty.models.trees import Lineage


class LandingState(models.TextChoices):
    """State of a landing."""

    WAITING = "waiting", "Waiting"  # the branch has the measured tree; it is merged as soon as it is accepted
    AGAIN = "again", "Measured again"  # merged exactly, but on another tree than it was measured on
    DIFFERS = "differs", "Differs"  # the branch has its change in a tree that nobody measured
    MERGED = "merged", "Merged"  # it is the lineage's tip, or was
    ENDED = "ended", "Ended"  # the submission ended, or the branch no longer has its change


class Landing(models.Model):
    """A submission whose change the branch has, by a merge on GitHub or a push. ``problem`` says what it waits for."""

    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="landings")
    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="landings")
    commit = models.CharField(max_length=64)
    tree_hash = models.CharField(max_length=64, help_text="The folder at that commit.")
    state = models.CharField(max_length=8, choices=LandingState.choices)
    problem = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["submission"], condition=Q(ended_at=None), name="one_open_landing_per_submission"
            ),
            models.CheckConstraint(condition=Q(state__in=LandingState.values), name="landing_state_known"),
            models.CheckConstraint(
                condition=Q(ended_at=None) ^ Q(state__in=[LandingState.MERGED, LandingState.ENDED]),
                name="an_ended_landing_says_when",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.submission_id} at {self.commit[:12]} ({self.state})"


class PushSender(models.Model):
    """Who pushed a commit to a branch, as GitHub said with the push. Git itself does not know."""

    repository = models.ForeignKey(GitHubRepository, on_delete=models.PROTECT, related_name="push_senders")
    branch = models.CharField(max_length=200)
    commit = models.CharField(max_length=64)
    github_id = models.BigIntegerField(help_text="GitHub's number of who pushed.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["repository", "branch", "commit", "github_id"], name="one_sender_is_kept_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.github_id} pushed {self.commit[:12]}"
