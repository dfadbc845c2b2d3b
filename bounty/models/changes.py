"""History of state changes: old and new state, time, reason and actor. Append-only."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

SUBJECTS = [
    (name, name)
    for name in (
        "bounty",
        "submission",
        "run",
        "award",
        "runner",
        "lineage",
        "stopswitch",
        "dispute",
        "reproduction",
        "slowbase",
        "repricing",
    )
]


class StateChange(models.Model):
    """One change of state, written in the same transaction. ``old`` is empty for a new subject."""

    subject = models.CharField(max_length=12, choices=SUBJECTS)
    subject_id = models.CharField(max_length=36)
    old = models.CharField(max_length=64, blank=True)
    new = models.CharField(max_length=64)
    reason = models.TextField()
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        indexes = [models.Index(fields=["subject", "subject_id"])]
        constraints = [
            models.CheckConstraint(
                condition=Q(subject__in=[name for name, _ in SUBJECTS]), name="change_subject_known"
            )
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.subject_id}: {self.old or 'new'} -> {self.new}"
