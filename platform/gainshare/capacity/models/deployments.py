"""Deployments: which tree the nodes of a model execute, and the canary that each one passed or failed before."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from gainshare.capacity.models.hosts import Host


class DeploymentState(models.TextChoices):
    """State of a deployment. Each change is one conditional UPDATE; none goes back."""

    REQUESTED = "requested", "Requested"  # waits for a host that can try it
    CANARY = "canary", "Canary"  # a host builds it, then times it against the tree that is served
    STARTING = "starting", "Starting"  # its nodes start beside the serving ones, without traffic
    SERVING = "serving", "Serving"  # all new requests go to its nodes
    SUPERSEDED = "superseded", "Superseded"  # a later deployment serves
    REFUSED = "refused", "Refused"  # it could not be built, or its canary was worse or different
    ROLLED_BACK = "rolled_back", "Rolled back"  # it served, and the tree before it was put back
    FAILED = (
        "failed",
        "Failed",
    )  # hosts were lost or nodes did not start: says nothing of the tree; may be asked again


UNDER_WAY = (DeploymentState.REQUESTED, DeploymentState.CANARY, DeploymentState.STARTING)
HAS_SERVED = (DeploymentState.SERVING, DeploymentState.SUPERSEDED, DeploymentState.ROLLED_BACK)


class Deployment(models.Model):
    """One tree for one model. At most one deployment of a model is under way, and at most one serves.

    A model without a serving deployment is served by the installed tree, which a deployment names by "" in ``tree``.
    ``result`` is what was recomputed from the canary's evidence (`benchmarks.canary.verdict`), and under ``usual`` what was
    usual in service before it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    model = models.CharField(max_length=120)
    tree = models.CharField(max_length=64, blank=True, help_text="Hash; empty: the installed tree.")
    before = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="What served when it was asked for, or for a rollback what it puts back; empty: the installed tree.",
    )
    is_first = models.BooleanField(
        default=False, help_text="Nothing served the model before, so there was nothing to compare with."
    )
    is_rollback = models.BooleanField(
        default=False, help_text="It puts back a tree that served before, without a canary."
    )
    lineage = models.CharField(max_length=60, blank=True, help_text="Whose tip it was when it was asked for.")
    reason = models.CharField(max_length=300, help_text="Why it was asked for.")
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Empty: the platform itself, by a lineage's setting or as a rollback.",
    )
    state = models.CharField(
        max_length=12, choices=DeploymentState.choices, default=DeploymentState.REQUESTED
    )
    why = models.CharField(max_length=300, blank=True, help_text="Why it is refused, failed or rolled back.")
    progress = models.CharField(max_length=200, blank=True, help_text="Of the canary, as its agent says.")
    host = models.ForeignKey(Host, on_delete=models.PROTECT, null=True, related_name="+")
    plan = models.JSONField(default=dict, help_text="Of the canary: `benchmarks.canary.order.Plan`.")
    tries = models.PositiveSmallIntegerField(default=0, help_text="Canaries that were begun.")
    evidence_blob = models.CharField(max_length=64, blank=True, help_text="The canary's signed document.")
    result = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    canary_at = models.DateTimeField(null=True, help_text="When its present canary was begun.")
    judged_at = models.DateTimeField(null=True, help_text="When the canary's evidence was accepted.")
    starting_at = models.DateTimeField(null=True, help_text="Since when its nodes are started.")
    serving_at = models.DateTimeField(null=True)
    watch_ended_at = models.DateTimeField(
        null=True, help_text="When the platform itself first asked for its rollback."
    )
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["model"], condition=Q(state__in=UNDER_WAY), name="deployment_one_under_way"
            ),
            models.UniqueConstraint(
                fields=["model"], condition=Q(state=DeploymentState.SERVING), name="deployment_one_serves"
            ),
            models.CheckConstraint(
                condition=Q(state__in=DeploymentState.values), name="deployment_state_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tree[:12] or 'installed'} for {self.model} ({self.state})"
