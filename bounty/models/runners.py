"""Runners: machines that judge. Each has a token (only its hash is kept) and a registered Ed25519 key."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class RunnerState(models.TextChoices):
    """Whether a runner gets work."""

    ACTIVE = "active", "Active"  # may lease runs
    QUARANTINED = "quarantined", "Quarantined"  # drifting or suspected: may not lease, its token still works
    RETIRED = "retired", "Retired"  # its token no longer works


class Runner(models.Model):
    """One runner, one device, at most one open lease at a time."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(max_length=60, unique=True)
    hardware = models.SlugField(max_length=60)
    token_hash = models.CharField(max_length=64, unique=True)
    public_key = models.CharField(max_length=64, help_text="Raw Ed25519 public key in base64.")
    key_id = models.CharField(max_length=16, unique=True)
    fingerprint = models.JSONField(default=dict, blank=True, help_text="Hardware as the runner describes it.")
    host = models.CharField(max_length=120, blank=True, help_text="Confirmations prefer another host.")
    state = models.CharField(max_length=12, choices=RunnerState.choices, default=RunnerState.ACTIVE)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=RunnerState.values), name="runner_state_known")
        ]

    def __str__(self) -> str:
        return self.name

    # DRF's permission classes and throttles ask these of whatever stands in ``request.user``.
    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def is_anonymous(self) -> bool:
        return False
