"""Complete pairs of runs, posted one by one with the runner's signature: append-only, as evidence is."""

from __future__ import annotations

from django.db import models

from bounty.models.runners import Runner
from bounty.models.runs import Run


class MeasuredPair(models.Model):
    """Signed record of one pair of a gate or a confirmation. It counts whatever becomes of its run."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="pairs")
    attempt = models.PositiveSmallIntegerField()
    index = models.PositiveIntegerField()
    digest = models.CharField(max_length=80, unique=True)
    sealed = models.JSONField()
    runner = models.ForeignKey(Runner, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["run", "attempt", "index"], name="pair_is_posted_once"),
        ]

    def __str__(self) -> str:
        return f"pair {self.index} of {self.run_id}, attempt {self.attempt}"
