"""REST: deploy a lineage's tip, and have it deployed by itself. `capacity/deployments/` shows what became of it."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import caller, validated
from bounty.models import AutomaticDeploy
from bounty.services.deployments.tips import deploy_tip, find_lineage, set_automatic
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.schema import refused


class DeployIn(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=120, help_text="As a served model is named.")


class DeployAsked(serializers.Serializer[Any]):
    id = serializers.UUIDField(help_text="Of the deployment: GET capacity/deployments/ID/ follows it.")
    model = serializers.CharField()
    tree = serializers.CharField()
    state = serializers.CharField()


class AutomaticDeployIn(DeployIn):
    is_on = serializers.BooleanField()


class AutomaticDeployOut(serializers.ModelSerializer[AutomaticDeploy]):
    changed_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text="Null where no one has set it yet."
    )

    class Meta:
        model = AutomaticDeploy
        fields = ["model", "is_on", "problem", "changed_at"]


class LineageDeploy(APIView):
    """Have a model served from a lineage's tip, after a canary (maintainers)."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=DeployIn, responses={202: DeployAsked, **refused(404, 409)})
    def post(self, request: Request, name: str) -> Response:
        made = deploy_tip(actor=caller(request), name=name, **validated(DeployIn, request))
        return Response(DeployAsked(made).data, status=202)


class LineageAutomaticDeploy(APIView):
    """Whether each tip of a lineage is deployed by itself, and for which model."""

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "PUT" else [IsMaintainer()]

    @extend_schema(responses={200: AutomaticDeployOut, **refused(404)})
    def get(self, request: Request, name: str) -> Response:
        lineage = find_lineage(name)
        setting = AutomaticDeploy.objects.filter(lineage=lineage).first() or AutomaticDeploy()
        return Response(AutomaticDeployOut(setting).data)

    @extend_schema(request=AutomaticDeployIn, responses={200: AutomaticDeployOut, **refused(404)})
    def put(self, request: Request, name: str) -> Response:
        """Turn it on for a model, or off (maintainers). Each merged diff needs two acceptances."""
        setting = set_automatic(actor=caller(request), name=name, **validated(AutomaticDeployIn, request))
        return Response(AutomaticDeployOut(setting).data)
