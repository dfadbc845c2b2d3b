"""Repositories that lineages are bound to, what was pushed there, and stops after a push that lost the tip."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from bounty.models.github.installations import GitHubRepository
from bounty.models.stops import LineageStop, one_stands, release_says_who_and_why
from bounty.models.trees import Lineage, StoredTree


class RepositoryBinding(models.Model):
    """One lineage's repository. ``commit`` and ``tree`` are what was followed last; both are empty before that.

    ``problem`` says why the newest state of the branch is not followed; it is empty when it is.
    """

    lineage = models.OneToOneField(Lineage, on_delete=models.PROTECT, related_name="repository")
    url = models.CharField(max_length=300)
    branch = models.CharField(max_length=200)
    folder = models.CharField(max_length=240)
    github = models.ForeignKey(
        GitHubRepository,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="bindings",
        help_text="The same repository as the App sees it; empty: its pull requests are not judged.",
    )
    commit = models.CharField(max_length=64, blank=True)
    tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    daily_microcredits = models.BigIntegerField(
        default=0, help_text="What comments in its pull requests can spend in a day (UTC)."
    )
    problem = models.TextField(blank=True)
    checked_at = models.DateTimeField(null=True, blank=True, help_text="When it was last fetched, or tried.")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(condition=Q(daily_microcredits__gte=0), name="comments_spend_or_nothing")
        ]

    def __str__(self) -> str:
        return f"{self.lineage}: {self.where}"

    @property
    def where(self) -> str:
        """Address, branch and folder in words."""
        return f"{self.url}, branch {self.branch}, folder {self.folder}"


class Push(models.Model):
    """One move of a lineage's tip by a push: ``tree`` took the place of ``replaced``, without being measured against it."""

    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="pushes")
    replaced = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    commit = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        verbose_name_plural = "pushes"
        constraints = [
            models.CheckConstraint(condition=~Q(tree=models.F("replaced")), name="push_changes_the_tree")
        ]

    def __str__(self) -> str:
        return f"{self.lineage}: {self.commit[:12]}"


class RepositoryStop(LineageStop):
    """A branch whose history no longer has the commit that was followed. Merges stop until a maintainer releases it."""

    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="repository_stops")
    tree = models.ForeignKey(
        StoredTree, on_delete=models.PROTECT, related_name="+", help_text="The tip that the branch lost."
    )
    lost_commit = models.CharField(max_length=64)
    found_commit = models.CharField(
        max_length=64, help_text="The branch's newest commit as it was last seen."
    )

    class Meta(LineageStop.Meta):
        constraints = [
            one_stands("one_standing_repository_stop"),
            release_says_who_and_why("repository_release_says_who_and_why"),
        ]
