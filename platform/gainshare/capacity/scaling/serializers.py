"""JSON shapes of served models, decisions and wanted counts."""

from typing import Any

from rest_framework import serializers

from gainshare.capacity.agent.protocol import MODEL_NAME
from gainshare.capacity.models import ActuatorName, Decision, PolicyName, ScalingState, ServedModel

MOST = 2**63 - 1


class WantedSerializer(serializers.Serializer[Any]):
    """Nodes wanted of one class for one model, and those that are there."""

    model = serializers.CharField()
    device_class = serializers.CharField()
    wanted = serializers.IntegerField()
    starting = serializers.IntegerField()
    ready = serializers.IntegerField()
    draining = serializers.IntegerField()


class PoolModelSerializer(serializers.ModelSerializer[ServedModel]):
    """A served model, and what scaling last decided for it."""

    classes: serializers.SlugRelatedField[Any] = serializers.SlugRelatedField(
        slug_field="name", many=True, read_only=True
    )
    wanted = serializers.DictField(
        child=serializers.IntegerField(), source="scaling.wanted", help_text="Nodes by class."
    )
    reason = serializers.CharField(source="scaling.reason")
    problem = serializers.CharField(
        source="scaling.problem", help_text="Why the counts are not reached; empty: they are."
    )
    failure = serializers.CharField(source="scaling.failure", help_text="Of the last pass.")
    engine_failure = serializers.CharField(
        source="scaling.engine_failure", help_text="At the engine outside."
    )
    passed_at = serializers.DateTimeField(source="scaling.passed_at", allow_null=True)

    class Meta:
        model = ServedModel
        fields = [
            "name", "classes", "policy", "is_automatic", "fixed_nodes", "slots", "first_token_p99_ms", "token_p99_ms",
            "budget_microcredits_per_day", "rolls_back_on_failures", "rolls_back_slower_percent", "actuator", "wanted", "reason", "problem", "failure", "engine_failure",
            "passed_at", "created_at", "updated_at",
        ]  # fmt: skip
        read_only_fields = fields

    def to_representation(self, instance: ServedModel) -> dict[str, Any]:
        """The served model; one that no pass has seen yet has no wanted counts."""
        if not hasattr(instance, "scaling"):
            instance.scaling = ScalingState(served=instance)
        return super().to_representation(instance)


class PoolModelChangeSerializer(serializers.Serializer[Any]):
    """What can be changed of a served model; what is left out stays."""

    classes = serializers.ListField(
        child=serializers.SlugField(max_length=40), allow_empty=False, required=False, max_length=50
    )
    policy = serializers.ChoiceField(PolicyName.choices, required=False)
    is_automatic = serializers.BooleanField(
        required=False, help_text="Whether the policy decides; else fixed_nodes are wanted."
    )
    fixed_nodes = serializers.IntegerField(required=False, min_value=0, max_value=10_000)
    slots = serializers.IntegerField(
        required=False, min_value=1, max_value=10_000, help_text="Requests that a node answers at one time."
    )
    first_token_p99_ms = serializers.IntegerField(required=False, min_value=1, max_value=3_600_000)
    token_p99_ms = serializers.IntegerField(required=False, min_value=1, max_value=3_600_000)
    budget_microcredits_per_day = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=MOST, help_text="null: no limit."
    )
    rolls_back_on_failures = serializers.BooleanField(
        required=False, help_text="Roll a deployment back when requests fail that the tree before answered."
    )
    rolls_back_slower_percent = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=10_000,
        help_text="Roll a deployment back when its tokens take so much longer than in its canary; null: never.",
    )
    actuator = serializers.ChoiceField(ActuatorName.choices, required=False)


class NewPoolModelSerializer(PoolModelChangeSerializer):
    """A model to serve."""

    name = serializers.RegexField(
        rf"^{MODEL_NAME.pattern}$",
        max_length=120,
        help_text="As requests name it, and a model of the hosts' stores: letters, digits and . _ - only.",
    )
    classes = serializers.ListField(
        child=serializers.SlugField(max_length=40), allow_empty=False, max_length=50
    )


class DecisionSerializer(serializers.ModelSerializer[Decision]):
    """One decision with its reason and what it was made from."""

    model = serializers.CharField(source="served.name")
    before = serializers.DictField(child=serializers.IntegerField(), help_text="Nodes by class until then.")
    wanted = serializers.DictField(child=serializers.IntegerField(), help_text="Nodes by class.")

    class Meta:
        model = Decision
        fields = [
            "id", "model", "created_at", "policy", "reason", "before", "wanted", "actions", "problem", "is_change",
            "inputs",
        ]  # fmt: skip
        read_only_fields = fields
