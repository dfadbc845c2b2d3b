"""REST of scaling: served models, decisions, and the wanted counts for engines outside."""

from dataclasses import asdict
from typing import Any

from django.http import HttpResponse
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.models import User
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.queries import ListQuery
from gainshare.accounts.schema import refused
from gainshare.accounts.services import NotFound
from gainshare.capacity.models import Decision, ServedModel
from gainshare.capacity.scaling.metrics import metrics_text
from gainshare.capacity.scaling.serializers import (
    DecisionSerializer,
    NewPoolModelSerializer,
    PoolModelChangeSerializer,
    PoolModelSerializer,
    WantedSerializer,
)
from gainshare.capacity.scaling.served import change_served, serve_model
from gainshare.capacity.scaling.wanted import wanted_rows

READ = ("GET", "HEAD", "OPTIONS")
SERVED = ServedModel.objects.select_related("scaling").prefetch_related("classes")


def caller(request: Request) -> User:
    """The logged-in user, whom the permission classes require."""
    assert isinstance(request.user, User)
    return request.user


class ReadOrMaintain(APIView):
    """Everyone with a key that reads may read; maintainers may change."""

    def get_permissions(self) -> list[BasePermission]:
        return [HasScope("read")()] if self.request.method in READ else [IsMaintainer()]


class ServedModels(ReadOrMaintain, ListAPIView[ServedModel]):
    """Models that the pool serves."""

    serializer_class = PoolModelSerializer
    queryset = SERVED

    @extend_schema(
        operation_id="capacity_models_list", summary="Models that the pool serves, with wanted counts"
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="capacity_models_serve",
        summary="Serve a model from the pool (maintainers)",
        request=NewPoolModelSerializer,
        responses={201: PoolModelSerializer, **refused(403)},
    )
    def post(self, request: Request) -> Response:
        form = NewPoolModelSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        served = serve_model(actor=caller(request), **form.validated_data)
        return Response(PoolModelSerializer(served).data, status=201)


class ServedModelDetail(ReadOrMaintain):
    """One model that the pool serves."""

    @extend_schema(
        operation_id="capacity_models_read",
        summary="One served model with its last decision",
        responses={200: PoolModelSerializer, **refused(403, 404)},
    )
    def get(self, request: Request, name: str) -> Response:
        served = SERVED.filter(name=name).first()
        if served is None:
            raise NotFound("There is no served model with this name.")
        return Response(PoolModelSerializer(served).data)

    @extend_schema(
        operation_id="capacity_models_change",
        summary="Change how a model is served (maintainers)",
        request=PoolModelChangeSerializer,
        responses={200: PoolModelSerializer, **refused(403, 404)},
    )
    def patch(self, request: Request, name: str) -> Response:
        form = PoolModelChangeSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        change_served(actor=caller(request), name=name, **form.validated_data)
        return Response(PoolModelSerializer(SERVED.get(name=name)).data)


class DecisionQuery(ListQuery):
    """Filters of the list of decisions."""

    lookups = {"model": "served__name"}

    model = serializers.CharField(required=False, max_length=120, help_text="A served model's name.")
    is_change = serializers.BooleanField(
        required=False,
        help_text="Only decisions that changed something, or only others.",
    )


class Decisions(ListAPIView[Decision]):
    """Decisions of scaling, newest first. Each with its reason and what it was made from."""

    permission_classes = [HasScope("read")]
    serializer_class = DecisionSerializer
    queryset = Decision.objects.select_related("served")
    query_class = DecisionQuery


class WantedCount(APIView):
    """The wanted count of one class for one model."""

    permission_classes = [HasScope("read")]

    @extend_schema(
        operation_id="capacity_wanted",
        summary="Nodes wanted of a class for a model, for KEDA",
        description="`wanted` is what KEDA's `metrics-api` trigger reads with `valueLocation: wanted`.",
        responses={200: WantedSerializer, **refused(403, 404)},
    )
    def get(self, request: Request, model: str, device_class: str) -> Response:
        for row in wanted_rows(model):
            if row.device_class == device_class:
                return Response(asdict(row))
        raise NotFound("This model is not served on a class of this name.")


class AnyAccept(BaseContentNegotiation):
    """Whatever the caller says it accepts, metrics are text and errors are JSON."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class Metrics(APIView):
    """The wanted counts and the nodes as Prometheus metrics."""

    permission_classes = [HasScope("read")]
    content_negotiation_class = AnyAccept

    @extend_schema(
        operation_id="capacity_metrics",
        summary="Wanted counts and nodes as Prometheus metrics",
        responses={(200, "text/plain"): OpenApiTypes.STR, **refused(403)},
    )
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(metrics_text(), content_type="text/plain; version=0.0.4; charset=utf-8")


urlpatterns = [
    path("capacity/models/", ServedModels.as_view(), name="capacity-models"),
    path("capacity/models/<str:name>/", ServedModelDetail.as_view(), name="capacity-model"),
    path("capacity/decisions/", Decisions.as_view(), name="capacity-decisions"),
    path("capacity/wanted/<str:model>/<str:device_class>/", WantedCount.as_view(), name="capacity-wanted"),
    path("capacity/metrics/", Metrics.as_view(), name="capacity-metrics"),
]
