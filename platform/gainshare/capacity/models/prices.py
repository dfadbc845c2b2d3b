"""History of a class's price: one row for each price that a maintainer set, never changed."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from gainshare.capacity.models.classes import DeviceClass


class ClassPrice(models.Model):
    """A price of a class from ``set_at`` until the next row's. A node keeps the one of its start."""

    device_class = models.ForeignKey(DeviceClass, on_delete=models.PROTECT, related_name="prices")
    price_microcredits_per_device_hour = models.BigIntegerField()
    set_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Empty: the machine's own supervisor.",
    )
    set_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(price_microcredits_per_device_hour__gte=0), name="set_price_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.device_class}: {self.price_microcredits_per_device_hour}"
