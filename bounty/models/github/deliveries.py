"""Webhook deliveries: each is kept once, by GitHub's own id, until it is worked off."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Delivery(models.Model):
    """One delivery whose signature held. ``done_at`` is set when its work is done; ``problem`` says why it was not."""

    delivery_id = models.UUIDField(primary_key=True)
    event = models.CharField(max_length=60)
    action = models.CharField(max_length=60, blank=True)
    payload = models.JSONField()
    received_at = models.DateTimeField(auto_now_add=True)
    done_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    problem = models.TextField(blank=True)

    class Meta:
        ordering = ["received_at", "delivery_id"]
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(fields=["received_at"], condition=Q(done_at=None), name="bounty_delivery_to_do")
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.action} {self.delivery_id}"
