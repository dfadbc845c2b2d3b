"""Looks of maintainers at submissions that are sealed for others."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from bounty.models.submissions import Submission
from bounty.visibility import LOGGED_PARTS, Phase


class Look(models.Model):
    """One look of a maintainer at a part of a submission that is not decided."""

    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="looks")
    viewer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    part = models.CharField(max_length=12)
    phase = models.CharField(max_length=16)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(part__in=[part.value for part in LOGGED_PARTS]), name="look_part_known"
            ),
            models.CheckConstraint(
                condition=Q(phase__in=[phase.value for phase in Phase]), name="look_phase_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.viewer_id} at the {self.part} of {self.submission_id}"
