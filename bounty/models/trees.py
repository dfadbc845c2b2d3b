"""Stored content-addressed trees, and lineages, which are named lines of merged trees.

File contents live in the blob store (`settings.BLOB_ROOT`); a row holds the manifest, which is immutable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models

if TYPE_CHECKING:
    from bounty.models.base_stops import BaseStop
    from bounty.models.repositories import RepositoryStop

SHA256 = r"^[0-9a-f]{64}$"


class StoredTree(models.Model):
    """One tree of `model/**`, named by its hash. ``parent`` is the tree that it was patched from, if any."""

    hash = models.CharField(max_length=64, primary_key=True, validators=[RegexValidator(SHA256)])
    manifest = models.JSONField()
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="children")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "tree"
        constraints = [
            models.CheckConstraint(condition=models.Q(hash__regex=SHA256), name="tree_hash_is_sha256")
        ]

    def __str__(self) -> str:
        return self.hash[:12]


class Lineage(models.Model):
    """A line of trees that grows by merging accepted submissions.

    ``tip`` moves by a merge, by a push to the repository that the lineage is bound to, or back when a merge is reversed. After the stack's layout changed, a renewal moves
    ``tip`` and ``origin`` to the shipped tree.
    """

    name = models.SlugField(max_length=60, unique=True)
    is_demo = models.BooleanField(default=False)
    origin = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    tip = models.ForeignKey(StoredTree, on_delete=models.PROTECT, related_name="+")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def standing_stop(self) -> BaseStop | None:
        """The stop that no maintainer has released yet, if there is one."""
        return self.base_stops.filter(released_at=None).first()

    @property
    def standing_repository_stop(self) -> RepositoryStop | None:
        """The stop after a push that lost the tip, if no maintainer has released it yet."""
        return self.repository_stops.filter(released_at=None).first()

    @property
    def merge_stop_reason(self) -> str:
        """Why a push stopped the lineage's merges; empty where none did."""
        stop = self.standing_repository_stop
        return "" if stop is None else stop.reason

    @property
    def stop_reason(self) -> str:
        """Why the lineage is stopped; empty where it is not."""
        stop = self.standing_stop
        return "" if stop is None else stop.reason
