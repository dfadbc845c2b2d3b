"""REST: the emergency stop of judging, awards and merges."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import StatedReason, caller, validated
from bounty.models import StopSwitch
from bounty.services.emergency import lift, stop, switches
from gainshare.accounts.permissions import IsMaintainer


class SwitchOut(serializers.ModelSerializer[StopSwitch]):
    actor = serializers.CharField(source="actor.username", allow_null=True, default=None)

    class Meta:
        model = StopSwitch
        fields = ["name", "is_stopped", "reason", "actor", "changed_at"]


class LiftIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=1000, allow_blank=True, default="")


class SwitchList(APIView):
    """The state of the three emergency stops. Each with who changed it last, when and why."""

    permission_classes = [AllowAny]

    @extend_schema(responses=SwitchOut(many=True))
    def get(self, request: Request) -> Response:
        return Response(SwitchOut(switches(), many=True).data)


class SwitchStop(APIView):
    """Stop judging, awards or merges (maintainers). Repeating changes nothing."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=StatedReason, responses=SwitchOut)
    def post(self, request: Request, name: str) -> Response:
        return Response(
            SwitchOut(stop(actor=caller(request), switch=name, **validated(StatedReason, request))).data
        )


class SwitchLift(APIView):
    """Lift an emergency stop (maintainers). Whatever waited continues automatically."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=LiftIn, responses=SwitchOut)
    def post(self, request: Request, name: str) -> Response:
        return Response(
            SwitchOut(lift(actor=caller(request), switch=name, **validated(LiftIn, request))).data
        )
