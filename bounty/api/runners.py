"""REST: registering and looking after runners."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import caller, validated
from bounty.models import Runner, RunnerState
from bounty.services.runner_care import set_runner_state
from bounty.services.runners import register_runner
from gainshare.accounts.permissions import IsMaintainer


class RunnerIn(serializers.Serializer[Any]):
    name = serializers.SlugField(max_length=60)
    hardware = serializers.SlugField(max_length=60, default="cpu")
    public_key = serializers.CharField(max_length=64, help_text="Raw Ed25519 public key in base64.")
    fingerprint = serializers.DictField(default=dict, help_text="CPU, cores, memory as the runner sees them.")
    host = serializers.CharField(max_length=120, allow_blank=True, default="")


class RunnerOut(serializers.ModelSerializer[Runner]):
    class Meta:
        model = Runner
        fields = [
            "id",
            "name",
            "hardware",
            "public_key",
            "key_id",
            "fingerprint",
            "state",
            "created_at",
            "last_seen_at",
        ]


class RunnerMade(RunnerOut):
    token = serializers.CharField(help_text="Shown only now.")

    class Meta(RunnerOut.Meta):
        fields = [*RunnerOut.Meta.fields, "token"]


class StateIn(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=RunnerState.choices)
    reason = serializers.CharField(max_length=1000, default="by a maintainer")


class RunnerList(generics.ListAPIView[Runner]):
    """All runners with their public keys. A maintainer registers one with POST."""

    queryset = Runner.objects.all()
    serializer_class = RunnerOut

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "POST" else [IsMaintainer()]

    @extend_schema(request=RunnerIn, responses={201: RunnerMade})
    def post(self, request: Request) -> Response:
        runner, token = register_runner(actor=caller(request), **validated(RunnerIn, request))
        return Response({**RunnerOut(runner).data, "token": token}, status=201)


class RunnerDetail(generics.RetrieveAPIView[Runner]):
    """One runner; its public key checks the signatures on its evidence."""

    queryset = Runner.objects.all()
    serializer_class = RunnerOut
    permission_classes = [AllowAny]
    lookup_field = "name"


class RunnerStateView(APIView):
    """Quarantine a runner, bring it back, or retire it for good."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=StateIn, responses=RunnerOut)
    def post(self, request: Request, name: str) -> Response:
        return Response(
            RunnerOut(set_runner_state(actor=caller(request), name=name, **validated(StateIn, request))).data
        )
