"""Runners, the machines that judge. Each has a token (only its hash is stored) and an Ed25519 key."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone


class RunnerState(models.TextChoices):
    """State of a runner, which decides whether it gets runs."""

    ACTIVE = "active", "Active"  # may lease runs
    DRAINING = "draining", "Draining"  # finishes the run it has, gets no new one
    DRAINED = "drained", "Drained"  # has no run and gets none, until a maintainer resumes it
    QUARANTINED = "quarantined", "Quarantined"  # its measurements are not trusted: gets only A/A runs
    RETIRED = "retired", "Retired"  # its token no longer works


class QuarantineCause(models.TextChoices):
    """Cause of a quarantine. A drained runner keeps it, and is still quarantined when it is resumed."""

    NONE = "", "None"
    FINGERPRINT = "fingerprint", "Changed hardware"  # only a maintainer releases it
    DRIFT = "drift", "A/A run failed"  # released by a maintainer, or by good A/A runs in a row
    FAILURES = "failures", "Failed runs in a row"  # the same
    MAINTAINER = "maintainer", "By a maintainer"  # only a maintainer releases it


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
    device_host = models.UUIDField(
        null=True, blank=True, help_text="Host of the pool whose device it measures on; empty: none of them."
    )
    device_number = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Number of that host's device, from 0."
    )
    state = models.CharField(max_length=12, choices=RunnerState.choices, default=RunnerState.ACTIVE)
    quarantine_cause = models.CharField(
        max_length=12, choices=QuarantineCause.choices, default=QuarantineCause.NONE, blank=True
    )
    quarantined_at = models.DateTimeField(null=True, blank=True)
    history_since = models.DateTimeField(
        default=timezone.now, help_text="Older noise samples are of other hardware or another judge."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    waits_for_device_since = models.DateTimeField(
        null=True, blank=True, help_text="Other work on its machine holds the device; see device_waits."
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=RunnerState.values), name="runner_state_known"),
            models.UniqueConstraint(
                fields=["device_host", "device_number"],
                condition=~Q(state=RunnerState.RETIRED),
                name="one_runner_on_a_device",
            ),
            models.CheckConstraint(
                condition=Q(device_host__isnull=True, device_number__isnull=True)
                | Q(device_host__isnull=False, device_number__isnull=False),
                name="runner_device_has_its_host",
            ),
            models.CheckConstraint(
                condition=Q(quarantine_cause__in=QuarantineCause.values), name="runner_cause_known"
            ),
            models.CheckConstraint(
                condition=~Q(state=RunnerState.QUARANTINED) | ~Q(quarantine_cause=QuarantineCause.NONE),
                name="quarantined_runner_has_its_cause",
            ),
            models.CheckConstraint(
                condition=~Q(state=RunnerState.ACTIVE) | Q(quarantine_cause=QuarantineCause.NONE),
                name="active_runner_has_no_cause",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_trusted(self) -> bool:
        """Whether its measurements may earn awards: it is active or draining, and not in quarantine."""
        return (
            self.state in (RunnerState.ACTIVE, RunnerState.DRAINING)
            and self.quarantine_cause == QuarantineCause.NONE
        )

    # DRF's permission classes and throttles read these from ``request.user``.
    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def is_anonymous(self) -> bool:
        return False
