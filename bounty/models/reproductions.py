"""Reproductions of bugs: Python files that show a bug on the bounty's tree. The bounty adopts the first one."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from bounty.models.bounties import Bounty
from bounty.models.submissions import VERDICT_CHOICES
from bounty.models.trees import StoredTree


class ReproductionState(models.TextChoices):
    """State of a reproduction."""

    QUEUED = "queued", "Queued"  # its run waits for a runner, or is judged
    REPRODUCED = "reproduced", "Reproduced"  # it shows the bug, and the bounty has not adopted it, or not yet
    ADOPTED = (
        "adopted",
        "Adopted",
    )  # adopted: fixes are judged with it, and its author has a share of the award
    REFUSED = "refused", "Refused"  # it shows no bug, or does not work
    DECLINED = "declined", "Declined"  # a maintainer decided that what it shows is no bug


class Reproduction(models.Model):
    """One person's file for one bug. The sealed order decides which of several is the first."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    bounty = models.ForeignKey(Bounty, on_delete=models.PROTECT, related_name="reproductions")
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reproductions"
    )
    blob = models.CharField(max_length=64, help_text="SHA-256 of the file, in the blob store.")
    tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    earns = models.BooleanField(help_text="Whoever opened the bounty earns nothing for reproducing its bug.")
    state = models.CharField(
        max_length=12, choices=ReproductionState.choices, default=ReproductionState.QUEUED
    )
    verdict_kind = models.CharField(max_length=24, choices=VERDICT_CHOICES, blank=True)
    verdict_reason = models.TextField(blank=True)
    sealed_at = models.DateTimeField(auto_now_add=True)
    judged_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["sealed_at", "pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=ReproductionState.values), name="reproduction_state_known"
            ),
            models.UniqueConstraint(
                fields=["bounty"],
                condition=Q(state=ReproductionState.ADOPTED),
                name="one_reproduction_per_bug",
            ),
            models.UniqueConstraint(
                fields=["bounty", "blob"],
                condition=Q(state__in=[ReproductionState.QUEUED, ReproductionState.REPRODUCED]),
                name="reproduction_is_judged_once",
            ),
        ]

    def __str__(self) -> str:
        return f"reproduction {self.pk} ({self.state})"
