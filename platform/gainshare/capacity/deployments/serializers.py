"""JSON shapes of deployments."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from gainshare.capacity.models import Deployment, DeploymentState


class DeploymentOut(serializers.ModelSerializer[Deployment]):
    """One tree for one model."""

    state = serializers.ChoiceField(DeploymentState.choices)
    requested_by = serializers.CharField(
        source="requested_by.username", default="", help_text="Empty: the platform itself."
    )
    host = serializers.CharField(source="host.name", default="", help_text="That runs or ran its canary.")
    before = serializers.UUIDField(source="before_id", allow_null=True)
    has_evidence = serializers.SerializerMethodField(help_text="Whether its canary's document can be read.")

    class Meta:
        model = Deployment
        fields = [
            "id", "model", "tree", "before", "is_first", "is_rollback", "lineage", "reason", "requested_by", "state", "why",
            "progress", "host", "tries", "has_evidence", "created_at", "canary_at", "judged_at", "starting_at",
            "serving_at", "ended_at",
        ]  # fmt: skip
        read_only_fields = fields

    def get_has_evidence(self, deployment: Deployment) -> bool:
        return deployment.evidence_blob != ""


class DeploymentDetailOut(DeploymentOut):
    """The same with what its canary was asked and found."""

    plan = serializers.JSONField(help_text="What its canary measures, and where the shapes come from.")
    result = serializers.JSONField(help_text="What was recomputed from its canary's document.")

    class Meta(DeploymentOut.Meta):
        fields = [*DeploymentOut.Meta.fields, "plan", "result"]


class RollbackIn(serializers.Serializer[Any]):
    """Why a deployment is rolled back."""

    reason = serializers.CharField(max_length=300)


class KeyIn(serializers.Serializer[Any]):
    """An agent's public key."""

    public_key = serializers.CharField(max_length=64, help_text="Raw Ed25519 public key in base64.")


class KeyOut(serializers.Serializer[Any]):
    """The key that the host has now."""

    public_key = serializers.CharField()


class CanaryIn(serializers.Serializer[Any]):
    """A canary's sealed document, or why there is none."""

    document = serializers.DictField(
        required=False, help_text="Sealed: `document`, `digest` and `signature` by the host's key."
    )
    failed = serializers.CharField(required=False, max_length=300, help_text="Why it could not be run.")
    is_of_tree = serializers.BooleanField(
        default=False, help_text="It failed because the tree does not build, where the served one does."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("document" in attrs) == ("failed" in attrs):
            raise serializers.ValidationError({"document": ["Send either `document` or `failed`."]})
        return attrs


class CanaryOut(serializers.Serializer[Any]):
    """What became of a canary."""

    state = serializers.ChoiceField(DeploymentState.choices)
    why = serializers.CharField()


class TreeFileOut(serializers.Serializer[Any]):
    path = serializers.CharField()
    mode = serializers.IntegerField()
    blob = serializers.CharField(help_text="SHA-256 of the file's bytes.")


class TreeFilesOut(serializers.Serializer[Any]):
    """A tree's files."""

    entries = TreeFileOut(many=True)
