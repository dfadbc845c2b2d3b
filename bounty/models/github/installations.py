"""The GitHub App, its installations and the repositories that they open to it. GitHub's own numbers are the keys."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class GitHubApp(models.Model):
    """The App as GitHub showed it last: one row. ``problem`` says in words what is wrong; it is empty when nothing is."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    app_id = models.CharField(max_length=100, blank=True, help_text="GitHub's number of it.")
    slug = models.CharField(max_length=100, blank=True, help_text="Its name in addresses.")
    page = models.CharField(max_length=300, blank=True, help_text="Address of its page on GitHub.")
    permissions = models.JSONField(default=dict, help_text="Permission -> level that it asks for.")
    events = models.JSONField(default=list, help_text="Events that it subscribes to.")
    problem = models.TextField(blank=True)
    checked_at = models.DateTimeField(
        null=True, blank=True, help_text="When all of it was checked, or tried."
    )

    class Meta:
        verbose_name = "GitHub App"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_github_app")]

    def __str__(self) -> str:
        return self.slug or "GitHub App"


class InstallationState(models.TextChoices):
    """State of an installation, as GitHub told it last."""

    ACTIVE = "active", "Active"
    SUSPENDED = "suspended", "Suspended"
    REMOVED = "removed", "Removed"


class Installation(models.Model):
    """One installation of the App. ``problem`` says in words what is missing; it is empty while all is there."""

    installation_id = models.BigIntegerField(primary_key=True)
    account = models.CharField(max_length=100, help_text="Its owner's name, as last seen.")
    state = models.CharField(
        max_length=10, choices=InstallationState.choices, default=InstallationState.ACTIVE
    )
    permissions = models.JSONField(default=dict, help_text="Permission -> level, as last seen.")
    problem = models.TextField(blank=True)
    quiet_until = models.DateTimeField(
        null=True, blank=True, help_text="GitHub asked to wait until then; nothing is sent before."
    )
    checked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["installation_id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=InstallationState.values), name="installation_state_known"
            )
        ]

    def __str__(self) -> str:
        return f"{self.account} ({self.state})"


class GitHubRepository(models.Model):
    """A repository that the App can reach. Its number stays when it is renamed or moved."""

    github_id = models.BigIntegerField(primary_key=True)
    full_name = models.CharField(max_length=140, help_text="OWNER/NAME, as last seen.")
    installation = models.ForeignKey(
        Installation, on_delete=models.PROTECT, null=True, blank=True, related_name="repositories"
    )
    etag = models.CharField(max_length=200, blank=True, help_text="Of the last list of pull requests.")
    polled_at = models.DateTimeField(null=True, blank=True)
    events_missing_since = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Since when events are known to be missing; empty while none is. Bookings in the series of its lineages "
        "wait meanwhile, at most 15 minutes.",
    )

    class Meta:
        ordering = ["github_id"]
        verbose_name_plural = "GitHub repositories"

    def __str__(self) -> str:
        return self.full_name
