"""REST for the caller's usage: GET /api/v1/usage/ and /api/v1/usage/{request_id}/ with the bill."""

from typing import Any

from django.db.models import QuerySet
from django.urls import path
from rest_framework import generics, serializers

from gainshare.accounts.permissions import HasScope
from gainshare.gateway.models import UsageRecord
from gainshare.gateway.prices.comparisons import Comparison, comparison_of
from gainshare.gateway.prices.draft_api import PriceDraftView
from gainshare.gateway.prices.proposal_api import PriceProposals


class UsageSerializer(serializers.ModelSerializer[UsageRecord]):
    """One request without its bill."""

    class Meta:
        model = UsageRecord
        fields: tuple[str, ...] = (
            "request_id", "key_prefix", "endpoint", "model", "is_stream", "status", "finish_reason", "error_code",
            "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens", "charged_microcredits",
            "created_at", "finished_at", "settled_at",
        )  # fmt: skip
        read_only_fields: tuple[str, ...] = fields


class BillLineSerializer(serializers.Serializer[Any]):
    """`quantity` tokens at `unit_price` micro-credits per million tokens make `amount` micro-credits.

    Of `memory` the quantity is byte-milliseconds, and the price that of the highest tier reached, per GB-second.
    """

    item = serializers.CharField()
    quantity = serializers.IntegerField()
    unit_price = serializers.IntegerField()
    amount = serializers.IntegerField()
    parts = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField()),
        required=False,
        help_text="[factor in millionths, tokens] by window, of memory [price, byte-milliseconds] by tier.",
    )


class PriceSerializer(serializers.Serializer[Any]):
    """The price version that applied."""

    id = serializers.IntegerField()
    effective_at = serializers.DateTimeField()


class GainOfPriceSerializer(serializers.Serializer[Any]):
    """A gain that lowered the price."""

    gain = serializers.CharField()
    person = serializers.CharField(help_text="Whose gain it is.")
    submission = serializers.UUIDField()
    lines = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="What it saves by line, in millionths of the price before.",
    )


class ComparisonSerializer(serializers.Serializer[Any]):
    """The bill compared with the same tokens under the prices before all gains; the same where no gain lowered them."""

    before_microcredits = serializers.IntegerField()
    billed_microcredits = serializers.IntegerField()
    saved_microcredits = serializers.IntegerField()
    gains = GainOfPriceSerializer(many=True)

    def get_attribute(self, instance: UsageRecord) -> Comparison:
        """The row's comparison, which is not stored."""
        return comparison_of(instance)


class UsageDetailSerializer(UsageSerializer):
    """One request with its bill, its hold and the engine's counters."""

    bill_lines = BillLineSerializer(many=True)
    price = PriceSerializer()
    output_hours = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField()),
        help_text="[hour of day (UTC), answer, tokens], in the order of arrival at the gateway.",
    )

    comparison = ComparisonSerializer(read_only=True)

    class Meta(UsageSerializer.Meta):
        fields = (
            *UsageSerializer.Meta.fields,
            "max_tokens", "hold_microcredits", "billed_microcredits", "bill_lines", "price", "engine",
            "counted_prompt_tokens", "prompt_hour", "output_hours", "kv_bytes_per_token", "kv_byte_ms", "tree",
            "comparison",
        )  # fmt: skip
        read_only_fields = fields


class OwnUsage(generics.GenericAPIView[UsageRecord]):
    """The caller's requests, newest first."""

    permission_classes = [HasScope("read") | HasScope("inference")]
    queryset = UsageRecord.objects.select_related("price")

    def get_queryset(self) -> QuerySet[UsageRecord]:
        return super().get_queryset().filter(user=self.request.user.pk)


class UsageList(generics.ListAPIView[UsageRecord], OwnUsage):
    """Your requests to models, newest first."""

    serializer_class = UsageSerializer


class UsageDetail(generics.RetrieveAPIView[UsageRecord], OwnUsage):
    """One of your requests with its bill, line by line. 404 for other users' requests."""

    serializer_class = UsageDetailSerializer
    lookup_field = "request_id"


urlpatterns = [
    path("prices/draft/", PriceDraftView.as_view(), name="prices-draft"),
    path("prices/proposals/", PriceProposals.as_view(), name="prices-proposals"),
    path("usage/", UsageList.as_view(), name="usage-list"),
    path("usage/<uuid:request_id>/", UsageDetail.as_view(), name="usage-detail"),
]
