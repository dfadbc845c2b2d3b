"""Classes of devices: what a maintainer says of a kind of machine."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class DeviceClass(models.Model):
    """A class of devices, such as ``cpu-small`` or ``spot-a10``. Nodes and runners on such devices belong to it.

    Class and price are set by maintainers; what a device can do is measured by the gateway, never claimed by a node.
    """

    name = models.SlugField(max_length=40, unique=True)
    description = models.CharField(max_length=200, blank=True)
    price_microcredits_per_device_hour = models.BigIntegerField(default=0)
    is_preemptible = models.BooleanField(
        default=False, help_text="Its devices may be taken away at short notice."
    )
    hardware = models.CharField(
        max_length=40, blank=True, help_text="Hardware of the runners that belong to it; empty: none."
    )
    max_nodes = models.PositiveIntegerField(default=8, help_text="Scaling starts no more than these.")
    cold_start_s = models.PositiveIntegerField(
        default=120, help_text="From an order to a ready node, until it was measured."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "device classes"
        constraints = [
            models.CheckConstraint(
                condition=Q(price_microcredits_per_device_hour__gte=0), name="class_price_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return self.name
