"""A lineage's setting that its tip is deployed by itself, off until a maintainer turns it on."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from bounty.models.trees import Lineage


class AutomaticDeploy(models.Model):
    """What of a lineage is deployed without being asked: its tip, for one model, while ``is_on``.

    ``problem`` says why the present tip is not asked for; empty where nothing holds it up.
    """

    lineage = models.OneToOneField(Lineage, on_delete=models.PROTECT, related_name="automatic_deploy")
    model = models.CharField(max_length=120, help_text="As a served model is named.")
    is_on = models.BooleanField(default=False)
    problem = models.CharField(max_length=300, blank=True)
    asked_tree = models.CharField(
        max_length=64, blank=True, help_text="The last tip that was asked for: each is asked for once."
    )
    changed_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    changed_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.lineage} to {self.model}: {'on' if self.is_on else 'off'}"
