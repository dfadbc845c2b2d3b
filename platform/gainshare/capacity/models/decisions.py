"""Decisions of the control loop, and what it knows of each served model between two passes."""

from __future__ import annotations

from django.db import models

from gainshare.capacity.models.served import ServedModel


class ScalingState(models.Model):
    """State of a served model's scaling: one row a model, rewritten by each pass of the control loop.

    ``state`` is the policy's own, as JSON; it is dropped when another policy takes over. ``wanted`` maps the names of
    classes to numbers of nodes. ``problem`` says what keeps the counts from being reached; empty: nothing.
    """

    served = models.OneToOneField(ServedModel, on_delete=models.CASCADE, related_name="scaling")
    policy = models.CharField(max_length=10, blank=True)
    state = models.JSONField(default=dict)
    wanted = models.JSONField(default=dict)
    reason = models.CharField(max_length=300, blank=True)
    problem = models.CharField(max_length=300, blank=True)
    passed_at = models.DateTimeField(null=True)
    asked_at = models.DateTimeField(null=True, help_text="When the policy was last asked.")
    failure = models.CharField(max_length=300, blank=True, help_text="What failed in the last pass.")
    engine_failure = models.CharField(
        max_length=300, blank=True, help_text="What failed at the engine outside."
    )
    settled_at = models.DateTimeField(null=True, help_text="When the engine outside was last asked.")

    def __str__(self) -> str:
        return f"scaling of {self.served}"


class Decision(models.Model):
    """One decision with its reason and all that it was made from. Never changed; repeats are deleted after a while.

    ``is_change`` is false for a row that only records that nothing changed for some time.
    """

    served = models.ForeignKey(ServedModel, on_delete=models.CASCADE, related_name="decisions")
    policy = models.CharField(max_length=10, help_text="Policy that decided; manual: a maintainer's count.")
    reason = models.CharField(max_length=300)
    before = models.JSONField(default=dict, help_text="Nodes wanted of each class until then.")
    wanted = models.JSONField(default=dict, help_text="Nodes wanted of each class.")
    inputs = models.JSONField(default=dict, help_text="Load, fleets, classes and objective at that time.")
    actions = models.JSONField(default=list, help_text="What the actuator was told or did.")
    problem = models.CharField(max_length=300, blank=True, help_text="Why not all could be carried out.")
    is_change = models.BooleanField(default=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-pk"]
        indexes = [models.Index(fields=["served", "-created_at"], name="decision_by_model")]

    def __str__(self) -> str:
        return f"{self.served} at {self.created_at:%Y-%m-%d %H:%M:%S}: {self.reason}"
