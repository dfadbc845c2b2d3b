"""REST for what serving cost beside what it earned: GET /api/v1/capacity/cost/."""

from typing import Any

from django.urls import path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.schema import refused
from gainshare.gateway.serving_cost import serving_days

MOST_DAYS = 366


class CostQuery(serializers.Serializer[Any]):
    """How far back."""

    days = serializers.IntegerField(
        default=30, min_value=1, max_value=MOST_DAYS, help_text="Days, with today."
    )


class DayOfServingSerializer(serializers.Serializer[Any]):
    """One model on one day, in micro-credits."""

    day = serializers.DateField(help_text="UTC.")
    model = serializers.CharField()
    cost_by_class = serializers.DictField(child=serializers.IntegerField())
    cost_microcredits = serializers.IntegerField(help_text="Of its nodes.")
    requests = serializers.IntegerField()
    tokens = serializers.IntegerField(help_text="Of prompts and answers.")
    revenue_microcredits = serializers.IntegerField(help_text="What the day's requests were charged.")
    cost_per_million_tokens = serializers.IntegerField(allow_null=True)
    revenue_per_million_tokens = serializers.IntegerField(allow_null=True)


class Cost(APIView):
    """What serving cost and earned."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="capacity_cost",
        summary="Cost of nodes beside revenue, by day and model (maintainers)",
        parameters=[CostQuery],
        responses={200: DayOfServingSerializer(many=True), **refused(403)},
    )
    def get(self, request: Request) -> Response:
        query = CostQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        rows = serving_days(now=timezone.now(), **query.validated_data)
        return Response(DayOfServingSerializer(rows, many=True).data)


urlpatterns = [path("capacity/cost/", Cost.as_view(), name="capacity-cost")]
