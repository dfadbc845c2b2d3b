"""REST for drafts of prices: POST /api/v1/prices/draft/."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.permissions import IsMaintainer
from gainshare.gateway.prices.drafts import draft_cost
from gainshare.ledger.price_book import PriceTable
from gainshare.ledger.serializers import TermsSerializer


class ItemCostSerializer(serializers.Serializer[Any]):
    """One item of all bills."""

    item = serializers.CharField()
    billed_microcredits = serializers.IntegerField()
    drafted_microcredits = serializers.IntegerField()


class DraftCostSerializer(serializers.Serializer[Any]):
    """What a model's requests of the last 30 days cost, and would have cost."""

    model = serializers.CharField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    requests = serializers.IntegerField()
    is_complete = serializers.BooleanField(help_text="False: there were more; these are the newest.")
    without_hours = serializers.IntegerField(
        help_text="Requests whose hours are not known: under the draft they cost the dearest."
    )
    billed_microcredits = serializers.IntegerField()
    drafted_microcredits = serializers.IntegerField()
    difference_microcredits = serializers.IntegerField()
    dearer_requests = serializers.IntegerField(help_text="Requests that would have cost more.")
    items = ItemCostSerializer(many=True)
    rises = serializers.ListField(
        child=serializers.CharField(), help_text="Terms that can make a bill dearer than the price in force."
    )
    effective_at = serializers.DateTimeField(help_text="The earliest, were it published now.")


class PriceDraftView(APIView):
    """Drafts of prices."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="prices_draft",
        summary="What the last month would have cost (maintainers)",
        description="Bills each request of the last 30 days again under these prices. Publishes nothing.",
        request=TermsSerializer,
        responses=DraftCostSerializer,
    )
    def post(self, request: Request) -> Response:
        form = TermsSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        terms = dict(form.validated_data)
        cost = draft_cost(model=terms.pop("model"), table=PriceTable(**terms), now=timezone.now())
        return Response(DraftCostSerializer(cost).data)
