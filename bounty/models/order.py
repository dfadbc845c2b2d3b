"""Bookings that did not follow the sealed order of their series."""

from django.db import models
from django.db.models import F, Q

from bounty.models.submissions import Submission


class OutOfOrder(models.Model):
    """``later`` was booked before ``earlier``, although ``earlier`` was sealed first: its judging had not ended."""

    later = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="booked_before")
    earlier = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="booked_after")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["later", "earlier"], name="out_of_order_once"),
            models.CheckConstraint(condition=~Q(later=F("earlier")), name="out_of_order_of_two"),
        ]

    def __str__(self) -> str:
        return f"{self.later_id} before {self.earlier_id}"
