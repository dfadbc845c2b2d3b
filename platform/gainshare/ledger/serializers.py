"""JSON shapes of the ledger. Amounts are whole micro-credits; a credit is a million of them."""

from typing import Any
from uuid import uuid4

from rest_framework import serializers

from gainshare.ledger.models import Account, PriceVersion, Transfer
from gainshare.ledger.services.posting import MAX_MICROCREDITS


class BalanceSerializer(serializers.Serializer[None]):
    """Balance of a user."""

    available = serializers.IntegerField(help_text="Spendable credits.")
    held = serializers.IntegerField(help_text="Set aside by open holds.")
    unvested = serializers.IntegerField(help_text="Awarded, not spendable yet.")
    owed = serializers.IntegerField(help_text="Repaid by later awards.")


class LotSerializer(serializers.ModelSerializer[Account]):
    """A grant or award with credits left, in the order in which lots are spent."""

    available_microcredits = serializers.IntegerField(read_only=True)

    class Meta:
        model = Account
        fields = [
            "reference",
            "source",
            "posted_microcredits",
            "pending_microcredits",
            "available_microcredits",
            "priority",
            "expires_at",
            "is_transferable",
            "created_at",
        ]
        read_only_fields = fields


class TransferSerializer(serializers.ModelSerializer[Transfer]):
    """One movement of credits."""

    from_account = serializers.StringRelatedField[Account]()
    to_account = serializers.StringRelatedField[Account]()

    class Meta:
        model = Transfer
        fields = [
            "id",
            "kind",
            "state",
            "from_account",
            "to_account",
            "amount_microcredits",
            "posted_amount",
            "reference",
            "memo",
            "created_at",
            "resolved_at",
        ]
        read_only_fields = fields


class CreditsSerializer(serializers.Serializer[None]):
    """A user's balance, lots and latest transfers."""

    balance = BalanceSerializer()
    lots = LotSerializer(many=True)
    transfers = TransferSerializer(many=True)


class AmountField(serializers.IntegerField):
    """Field for micro-credits: a JSON integer above zero. Text is refused, because "1.000" could mean two amounts."""

    def __init__(self, *, min_value: int = 1, **more: Any) -> None:
        super().__init__(min_value=min_value, max_value=MAX_MICROCREDITS, **more)

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            raise serializers.ValidationError(
                "Send micro-credits as a whole number without quotes, separators and decimals: 1500000 "
                "for 1.5 credits."
            )
        return int(super().to_internal_value(data))


class FundSerializer(serializers.Serializer[None]):
    """Credits to issue into the treasury."""

    transfer_id = serializers.UUIDField(
        default=uuid4, help_text="A UUID that you make, so that a repeated request funds once."
    )
    amount_microcredits = AmountField()
    memo = serializers.CharField(max_length=300, default="", allow_blank=True)


class TreasurySerializer(serializers.Serializer[None]):
    """Totals of all accounts. ``issued + owed`` equals the sum of the others."""

    issued = serializers.IntegerField()
    treasury = serializers.IntegerField()
    escrow = serializers.IntegerField()
    wallets = serializers.IntegerField()
    revenue = serializers.IntegerField()
    breakage = serializers.IntegerField()
    owed = serializers.IntegerField()


class GrantSerializer(serializers.Serializer[None]):
    """A grant to a user, from the treasury."""

    transfer_id = serializers.UUIDField(
        default=uuid4, help_text="A UUID that you make, so that a repeated request grants once."
    )
    username = serializers.CharField(max_length=150)
    amount_microcredits = AmountField()
    source = serializers.CharField(max_length=40, default="grant")  # type: ignore[assignment]  # a declared field
    priority = serializers.IntegerField(default=100, min_value=0, max_value=1000)
    expires_at = serializers.DateTimeField(default=None, allow_null=True)
    memo = serializers.CharField(max_length=300, default="", allow_blank=True)


class PriceVersionSerializer(serializers.ModelSerializer[PriceVersion]):
    """One immutable version of a model's prices, in micro-credits per million tokens."""

    effective_at = serializers.DateTimeField(required=False, help_text="Now by default.")
    cached_input = serializers.IntegerField(min_value=0, max_value=MAX_MICROCREDITS)
    fresh_input = serializers.IntegerField(min_value=0, max_value=MAX_MICROCREDITS)
    output = serializers.IntegerField(min_value=0, max_value=MAX_MICROCREDITS)

    class Meta:
        model = PriceVersion
        fields = ["model", "effective_at", "cached_input", "fresh_input", "output", "created_at"]
        read_only_fields = ["created_at"]
        validators: list[object] = []  # the service handles a version of the same time


class InvariantSerializer(serializers.Serializer[None]):
    """One invariant with its figure."""

    name = serializers.CharField()
    value = serializers.JSONField(help_text="A whole number, or a hash.")
    holds = serializers.BooleanField()
    detail = serializers.CharField()


class AuditSerializer(serializers.Serializer[None]):
    """Every invariant of the ledger, in one snapshot."""

    holds = serializers.BooleanField()
    invariants = InvariantSerializer(many=True)
