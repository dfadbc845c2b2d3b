"""Served models: what the pool should serve, where, how fast, and for how much a day."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from gainshare.capacity.models.classes import DeviceClass


class PolicyName(models.TextChoices):
    """Scaling policies of `gainshare.capacity.policies`."""

    FIXED = "fixed", "Fixed"
    KPA = "kpa", "Knative KPA"
    HPA = "hpa", "HPA with KEDA"
    RAY = "ray", "Ray Serve"
    FORECAST = "forecast", "Forecast"


class ActuatorName(models.TextChoices):
    """Who carries out wanted counts: `gainshare.capacity.scaling.actuators`."""

    LOCAL = "local", "Agents of hosts that are there"
    RAY = "ray", "A Ray cluster"
    EXTERNAL = "external", "Something outside that reads the wanted counts"


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
    rolls_back_on_failures = models.BooleanField(
        default=True, help_text="Roll a deployment back when requests fail that the tree before answered."
    )
    rolls_back_slower_percent = models.PositiveIntegerField(
        null=True,
        default=20,
        help_text="Roll a deployment back when its tokens take so much longer than in its canary; empty: never.",
    )
    actuator = models.CharField(max_length=10, choices=ActuatorName.choices, default=ActuatorName.LOCAL)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The maintainer who last changed it; hosts that an engine starts for it are theirs.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(policy__in=PolicyName.values), name="served_policy_known"),
            models.CheckConstraint(
                condition=Q(actuator__in=ActuatorName.values), name="served_actuator_known"
            ),
            models.CheckConstraint(condition=Q(slots__gt=0), name="served_has_slots"),
        ]

    def __str__(self) -> str:
        return self.name
