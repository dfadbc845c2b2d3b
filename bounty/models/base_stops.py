"""Stops of lineages whose base tree fails on its own, with the evidence that showed it."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from bounty.models.runs import Run
from bounty.models.trees import Lineage, StoredTree


class BaseStop(models.Model):
    """One stop. It stands until a maintainer releases it; a lineage has at most one that stands.

    ``evidence_blob`` is the sealed document in the blob store. It may be of a submission that is not decided, so what it
    measured of the patch is shown to no one.
    """

    lineage = models.ForeignKey(Lineage, on_delete=models.PROTECT, related_name="base_stops")
    tree = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="+")
    reason = models.TextField()
    evidence_digest = models.CharField(max_length=71)
    evidence_blob = models.CharField(max_length=64)
    stopped_at = models.DateTimeField(auto_now_add=True)
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    release_reason = models.TextField(blank=True)

    class Meta:
        ordering = ["-stopped_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["lineage"], condition=Q(released_at=None), name="one_standing_base_stop"
            ),
            models.CheckConstraint(
                condition=Q(released_at__isnull=True, released_by__isnull=True, release_reason="")
                | (Q(released_at__isnull=False, released_by__isnull=False) & ~Q(release_reason="")),
                name="a_release_says_who_and_why",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lineage}: {'stopped' if self.released_at is None else 'released'}"
