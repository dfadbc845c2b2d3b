"""Pull requests, the heads that were seen of them, and commands in their comments."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from bounty.models.bounties import Bounty
from bounty.models.github.installations import GitHubRepository
from bounty.models.submissions import Submission
from bounty.models.trees import StoredTree


class PullRequestState(models.TextChoices):
    """State of a pull request on GitHub."""

    OPEN = "open", "Open"
    CLOSED = "closed", "Closed"  # without a merge
    MERGED = "merged", "Merged"


class PullRequest(models.Model):
    """A pull request to a bound branch. What GitHub says of it is written only if its ``updated_at`` is not older."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    repository = models.ForeignKey(GitHubRepository, on_delete=models.PROTECT, related_name="pull_requests")
    number = models.PositiveIntegerField()
    author = models.ForeignKey(
        "accounts.GitHubAccount", on_delete=models.PROTECT, related_name="pull_requests"
    )
    title = models.CharField(max_length=300, blank=True)
    branch = models.CharField(max_length=200, help_text="Branch that it is to be merged into.")
    state = models.CharField(max_length=8, choices=PullRequestState.choices, default=PullRequestState.OPEN)
    is_draft = models.BooleanField(default=False)
    head_sha = models.CharField(max_length=64, help_text="Its newest head as last seen.")
    merge_sha = models.CharField(max_length=64, blank=True, help_text="Commit of its merge.")
    merged_by_id = models.BigIntegerField(
        null=True, blank=True, help_text="GitHub's number of who merged it."
    )
    opened_at = models.DateTimeField(help_text="GitHub's created_at: when the first head is sealed.")
    updated_at = models.DateTimeField(help_text="GitHub's updated_at of what is written here.")
    bounty = models.ForeignKey(
        Bounty, on_delete=models.PROTECT, null=True, blank=True, related_name="pull_requests"
    )
    named = models.CharField(
        max_length=60, blank=True, help_text="Bounty that its text or a /judge names, such as B12."
    )
    comments_read_at = models.DateTimeField(
        null=True, blank=True, help_text="GitHub's updated_at up to which its comments were polled."
    )
    needs_judge_command = models.BooleanField(
        default=False,
        help_text="Its author is new here: judged after a /judge of somebody else who may write to the repository.",
    )
    problem = models.TextField(blank=True, help_text="Why it is not judged now, in words for its author.")

    class Meta:
        ordering = ["-opened_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["repository", "number"], name="one_pull_request_per_repository_and_number"
            ),
            models.CheckConstraint(
                condition=Q(state__in=PullRequestState.values), name="pull_request_state_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.repository}#{self.number}"


class HeadState(models.TextChoices):
    """State of a head."""

    SEEN = "seen", "Seen"  # its diff is not read yet
    SEALED = "sealed", "Sealed"  # its diff is read and its digest kept; it is not judged unless somebody asks
    WAITING = "waiting", "Waiting"  # to be judged, but not yet: see ``problem``
    SUBMITTED = "submitted", "Submitted"  # it has a submission
    REFUSED = "refused", "Refused"  # its diff cannot be read, allowed or applied: see ``problem``
    REPLACED = "replaced", "Replaced"  # a newer head took its place before it was measured


class Head(models.Model):
    """One commit that was a pull request's head. ``sealed_at`` is its place in the sealed order of its series.

    ``unmeasured_paths`` are changed files outside of the folder that nobody measured: an acceptance must name them.
    """

    pull_request = models.ForeignKey(PullRequest, on_delete=models.PROTECT, related_name="heads")
    sha = models.CharField(max_length=64)
    merge_base = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=10, choices=HeadState.choices, default=HeadState.SEEN)
    sealed_at = models.DateTimeField()
    diff_blob = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the folder's diff.")
    patch_digest = models.CharField(max_length=64, blank=True)
    code_digest = models.CharField(
        max_length=64, blank=True, help_text="Of the folder's code without comments and layout."
    )
    tree = models.ForeignKey(
        StoredTree,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="The folder at this head.",
    )
    unmeasured_paths = models.JSONField(default=list)
    unmeasured_accepted_at = models.DateTimeField(null=True, blank=True)
    is_of_queue = models.BooleanField(
        default=False, help_text="Made by a merge queue: neither sealed nor judged; its check is neutral."
    )
    is_signed_off = models.BooleanField(default=False, help_text="Whether each commit is signed off (DCO).")
    submission = models.OneToOneField(
        Submission, on_delete=models.PROTECT, null=True, blank=True, related_name="head"
    )
    problem = models.TextField(blank=True, help_text="In words for the author, with what to do.")
    seen_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["seen_at", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["pull_request", "sha"], name="one_head_per_pull_request_and_commit"
            ),
            models.CheckConstraint(condition=Q(state__in=HeadState.values), name="head_state_known"),
            models.CheckConstraint(
                condition=Q(submission=None) | Q(state=HeadState.SUBMITTED),
                name="only_a_submitted_head_has_one",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pull_request} {self.sha[:12]}"


class CommandState(models.TextChoices):
    """State of a command."""

    WAITING = "waiting", "Waiting"
    DONE = "done", "Done"
    REFUSED = "refused", "Refused"


class Command(models.Model):
    """One command of one comment: done once, by the comment's number and its line. ``answer`` is shown in the comment."""

    pull_request = models.ForeignKey(PullRequest, on_delete=models.PROTECT, related_name="commands")
    comment_id = models.BigIntegerField(help_text="GitHub's number of the comment.")
    line = models.PositiveSmallIntegerField()
    github_id = models.BigIntegerField(help_text="GitHub's number of its author.")
    login = models.CharField(max_length=100, help_text="The author's name, as last seen.")
    text = models.CharField(max_length=2000)
    state = models.CharField(max_length=8, choices=CommandState.choices, default=CommandState.WAITING)
    answer = models.TextField(blank=True)
    spent_microcredits = models.BigIntegerField(
        default=0, help_text="What it took from the lineage's daily sum."
    )
    is_acknowledged = models.BooleanField(default=False, help_text="Whether its comment has our reaction.")
    created_at = models.DateTimeField(auto_now_add=True)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["comment_id", "line"], name="a_command_is_done_once"),
            models.CheckConstraint(condition=Q(state__in=CommandState.values), name="command_state_known"),
            models.CheckConstraint(
                condition=Q(spent_microcredits__gte=0), name="a_command_spends_or_nothing"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pull_request}: {self.text[:40]}"
