"""Served models: what the pool should serve, where, how fast, and for how much a day."""

from __future__ import annotations

from django.db import models

from gainshare.capacity.models.classes import DeviceClass


class PolicyName(models.TextChoices):
    """Scaling policies of `gainshare.capacity.policies`."""

    FIXED = "fixed", "Fixed"
    KPA = "kpa", "Knative KPA"
    HPA = "hpa", "HPA with KEDA"
    RAY = "ray", "Ray Serve"
    FORECAST = "forecast", "Forecast"


class ServedModel(models.Model):
    """One model that the pool serves. Nothing scales it while ``is_automatic`` is off: then ``fixed_nodes`` is wanted."""

    name = models.CharField(
        max_length=120, unique=True, help_text="As requests name it, and its nodes' --model."
    )
    classes = models.ManyToManyField(DeviceClass, related_name="served_models")
    policy = models.CharField(max_length=10, choices=PolicyName.choices, default=PolicyName.FORECAST)
    is_automatic = models.BooleanField(default=False)
    fixed_nodes = models.PositiveIntegerField(default=1)
    slots = models.PositiveIntegerField(
        default=4, help_text="Requests that one node answers at the same time."
    )
    first_token_p99_ms = models.PositiveIntegerField(default=2000)
    token_p99_ms = models.PositiveIntegerField(default=100)
    budget_microcredits_per_day = models.BigIntegerField(
        null=True, help_text="Scaling starts nothing that passes it; empty: no limit."
    )
    actuator = models.CharField(max_length=10, default="local", help_text="local, ray or external.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
