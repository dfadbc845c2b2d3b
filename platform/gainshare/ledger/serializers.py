"""JSON shapes of the ledger. Amounts are whole micro-credits; a credit is a million of them."""

from typing import Any
from uuid import uuid4

from rest_framework import serializers

from gainshare.ledger.models import Account, Transfer
from gainshare.ledger.pricing import HOURS, MILLION, MOST_TIERS
from gainshare.ledger.services.grants import MAX_PAYMENT_CHARS
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
    payment = serializers.CharField(
        max_length=MAX_PAYMENT_CHARS,
        default="",
        allow_blank=True,
        help_text="What was paid, such as an invoice's number. Only for the source `purchase`, which needs it.",
    )
    priority = serializers.IntegerField(default=100, min_value=0, max_value=1000)
    expires_at = serializers.DateTimeField(default=None, allow_null=True)
    memo = serializers.CharField(max_length=300, default="", allow_blank=True)


class PriceField(serializers.IntegerField):
    """Field for a price: whole micro-credits per million tokens, zero or more."""

    def __init__(self, **more: Any) -> None:
        super().__init__(min_value=0, max_value=MAX_MICROCREDITS, **more)


class NumbersField(serializers.ListField):
    """Field for a list of rows of ``width`` whole numbers; :func:`check_terms` checks what they mean."""

    def __init__(self, *, width: int, max_length: int, **more: Any) -> None:
        number = serializers.IntegerField(min_value=0, max_value=MAX_MICROCREDITS)
        row = serializers.ListField(child=number, min_length=width, max_length=width)
        super().__init__(child=row, max_length=max_length, **more)


class TermsSerializer(serializers.Serializer[Any]):
    """Prices of a model, in micro-credits per million tokens. The terms that are left out change nothing."""

    model = serializers.CharField(max_length=120)
    cached_input = PriceField()
    fresh_input = PriceField()
    output = PriceField()
    long_above = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=MAX_MICROCREDITS,
        help_text="Tokens of prompt and answer above which the long_ prices are added to each further token.",
    )
    long_cached_input = PriceField(required=False, help_text="Added for each cached token above long_above.")
    long_fresh_input = PriceField(required=False, help_text="Added for each fresh token above long_above.")
    long_output = PriceField(required=False, help_text="Added for each output token above long_above.")
    off_peak_windows = NumbersField(
        width=3,
        max_length=HOURS,
        required=False,
        help_text="Rows of first hour, hour after the last (both UTC), factor in millionths: [[22, 6, 500000]].",
    )
    memory_tiers = NumbersField(
        width=2,
        max_length=MOST_TIERS,
        required=False,
        help_text="Rows of byte-milliseconds and micro-credits per GB-second (10^12 of them) above these.",
    )
    memory_share_ppm = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=MILLION,
        help_text="Most that all memory of a request costs, in millionths of its token lines.",
    )


class PriceVersionSerializer(TermsSerializer):
    """One immutable version of a model's prices."""

    effective_at = serializers.DateTimeField(
        required=False,
        help_text="By default now, or 24 hours later if the price can make any bill dearer.",
    )
    created_at = serializers.DateTimeField(read_only=True, help_text="When it was published.")
    derivation = serializers.DictField(
        read_only=True,
        help_text="Reference prices, and the gains that lowered them; empty for prices that were set by hand.",
    )


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
