"""What submissions change, and which of them are nearly equal."""

from django.db import models
from django.db.models import F, Q

from bounty.models.submissions import Submission


class ChangedLines(models.Model):
    """Digests of the lines that a submission changes (`bounty.likeness`), as they were when it was sealed."""

    submission = models.OneToOneField(
        Submission, on_delete=models.PROTECT, primary_key=True, related_name="changed_lines"
    )
    digests = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"{len(self.digests)} lines of {self.submission_id}"


class Likeness(models.Model):
    """Two submissions of one lineage whose changed lines are nearly the same: of different people, or in different series."""

    later = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="like_earlier")
    earlier = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="like_later")
    percent = models.PositiveSmallIntegerField(help_text="Of the smaller change, that is in both.")

    class Meta:
        ordering = ["later", "-percent", "earlier"]
        constraints = [
            models.UniqueConstraint(fields=["later", "earlier"], name="likeness_once"),
            models.CheckConstraint(
                condition=Q(percent__lte=100) & ~Q(later=F("earlier")), name="likeness_of_two"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.percent} % of {self.later_id} and {self.earlier_id}"
