"""REST of deployments, for people. Reading as the rest of the pool; a rollback is for maintainers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.patch.trees import BlobStore
from gainshare.accounts.models import User
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.queries import ListQuery, OneOf
from gainshare.accounts.schema import refused
from gainshare.capacity.deployments import agent_api
from gainshare.capacity.deployments.rollback import roll_back
from gainshare.capacity.deployments.serializers import DeploymentDetailOut, DeploymentOut, RollbackIn
from gainshare.capacity.errors import CapacityError, NotFound
from gainshare.capacity.models import Deployment, DeploymentState

DEPLOYMENTS = Deployment.objects.select_related("requested_by", "host")


class DeploymentQuery(ListQuery):
    """Filters of the list of deployments."""

    model = serializers.CharField(required=False, max_length=120, help_text="A served model's name.")
    state = OneOf(DeploymentState.choices, help_text="A deployment's state.")


class Deployments(ListAPIView[Deployment]):
    """Deployments of trees, newest first."""

    permission_classes = [HasScope("read")]
    serializer_class = DeploymentOut
    queryset = DEPLOYMENTS
    query_class = DeploymentQuery


class DeploymentDetail(APIView):
    """One deployment."""

    permission_classes = [HasScope("read")]

    @extend_schema(
        operation_id="capacity_deployment",
        summary="One deployment with what its canary found",
        responses={200: DeploymentDetailOut, **refused(403, 404)},
    )
    def get(self, request: Request, pk: UUID) -> Response:
        return Response(DeploymentDetailOut(_found(pk)).data)


class DeploymentEvidence(APIView):
    """The signed document of a deployment's canary."""

    permission_classes = [HasScope("read")]

    @extend_schema(
        operation_id="capacity_deployment_evidence",
        summary="The signed document of a canary, for `gainshare verify`",
        responses={(200, "application/json"): OpenApiTypes.OBJECT, **refused(403, 404)},
    )
    def get(self, request: Request, pk: UUID) -> HttpResponse:
        blob = _found(pk).evidence_blob
        if not blob:
            raise NotFound("This deployment has no canary's document.")
        return HttpResponse(
            BlobStore(settings.BLOB_ROOT).get(blob),
            content_type="application/json",
            headers={"Content-Disposition": f'attachment; filename="canary-{pk}.json"'},
        )


class DeploymentRollback(APIView):
    """Put back what served before a deployment."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="capacity_deployment_rollback",
        summary="Put back the tree that served before (maintainers)",
        request=RollbackIn,
        responses={200: DeploymentDetailOut, **refused(403, 404)},
    )
    def post(self, request: Request, pk: UUID) -> Response:
        parsed = RollbackIn(data=request.data)
        parsed.is_valid(raise_exception=True)
        said: dict[str, Any] = parsed.validated_data
        deployment = _found(pk)
        if deployment.state in (DeploymentState.REFUSED, DeploymentState.FAILED) or deployment.ended_at:
            raise CapacityError("This deployment has ended; only the one that serves can be rolled back.")
        assert isinstance(request.user, User)
        made = roll_back(model=deployment.model, actor=request.user, reason=said["reason"])
        return Response(DeploymentDetailOut(made).data)


def _found(pk: UUID) -> Deployment:
    deployment = DEPLOYMENTS.filter(pk=pk).first()
    if deployment is None:
        raise NotFound("There is no such deployment.")
    return deployment


urlpatterns = [
    *agent_api.urlpatterns,
    path("capacity/deployments/", Deployments.as_view(), name="capacity-deployments"),
    path("capacity/deployments/<uuid:pk>/", DeploymentDetail.as_view(), name="capacity-deployment"),
    path(
        "capacity/deployments/<uuid:pk>/evidence/",
        DeploymentEvidence.as_view(),
        name="capacity-deployment-evidence",
    ),
    path(
        "capacity/deployments/<uuid:pk>/rollback/",
        DeploymentRollback.as_view(),
        name="capacity-deployment-rollback",
    ),
]
