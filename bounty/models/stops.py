"""What stops of lineages have in common: they stand until a maintainer releases them, who says why."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q


class LineageStop(models.Model):
    """A stop of a lineage. A kind of stop has ``lineage`` and ``tree`` of its own, and what showed it."""

    reason = models.TextField()
    stopped_at = models.DateTimeField(auto_now_add=True)
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    release_reason = models.TextField(blank=True)

    class Meta:
        abstract = True
        ordering = ["-stopped_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.lineage}: {'stopped' if self.released_at is None else 'released'}"  # type: ignore[attr-defined]


def one_stands(name: str) -> models.UniqueConstraint:
    """The constraint that a lineage has at most one stop of this kind that stands."""
    return models.UniqueConstraint(fields=["lineage"], condition=Q(released_at=None), name=name)


def release_says_who_and_why(name: str) -> models.CheckConstraint:
    """The constraint that a release has its moment, its maintainer and a reason, or none of them."""
    return models.CheckConstraint(
        condition=Q(released_at__isnull=True, released_by__isnull=True, release_reason="")
        | (Q(released_at__isnull=False, released_by__isnull=False) & ~Q(release_reason="")),
        name=name,
    )
