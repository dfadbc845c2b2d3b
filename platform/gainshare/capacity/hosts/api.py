"""REST for maintainers: hosts, their tokens, and notices of preemption."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.models import User
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.schema import refused
from gainshare.capacity.hosts import leaving, registration
from gainshare.capacity.hosts.agent_api import A_DAY_S, AgentHeartbeat
from gainshare.capacity.models import Host


class HostIn(serializers.Serializer[Any]):
    name = serializers.SlugField(max_length=60)
    device_class = serializers.SlugField(max_length=40, help_text="Name of the class of its devices.")
    is_exclusive = serializers.BooleanField(
        default=False, help_text="One device is serving or judging, never both; it may be lent to judging."
    )
    address = serializers.CharField(
        max_length=200,
        allow_blank=True,
        default="",
        help_text="IP address or name at which the gateway reaches its nodes; empty: where its agent speaks from.",
    )


class HostOut(serializers.ModelSerializer[Host]):
    device_class = serializers.CharField(source="device_class.name")

    class Meta:
        model = Host
        fields = [
            *("id", "name", "device_class", "token_prefix", "is_exclusive", "n_devices"),
            *("address", "allowed_address", "version", "last_seen_at", "leaves_at", "problem"),
            *("created_at", "revoked_at"),
        ]


class HostMade(HostOut):
    token = serializers.CharField(help_text="Shown only in this answer.")

    class Meta(HostOut.Meta):
        fields = [*HostOut.Meta.fields, "token"]


class HostReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=300)


class DepartureIn(serializers.Serializer[Any]):
    in_s = serializers.IntegerField(
        min_value=0, max_value=A_DAY_S, help_text="Seconds until it is taken away."
    )


class HostList(generics.ListAPIView[Host]):
    """The pool's hosts (maintainers)."""

    queryset = Host.objects.select_related("device_class")
    serializer_class = HostOut
    permission_classes = [IsMaintainer]

    @extend_schema(request=HostIn, responses={201: HostMade, **refused(404, 409)})
    def post(self, request: Request) -> Response:
        """Register a host; the answer shows its token once (maintainers)."""
        host, token = registration.register_host(actor=_actor(request), **_validated(HostIn, request))
        return Response({**HostOut(host).data, "token": token}, status=201)


class HostDetail(generics.RetrieveAPIView[Host]):
    """One host of the pool (maintainers)."""

    queryset = Host.objects.select_related("device_class")
    serializer_class = HostOut
    permission_classes = [IsMaintainer]
    lookup_field = "name"


class HostRenewal(APIView):
    """Give a host a new token; the old one opens nothing any more (maintainers)."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=None, responses=HostMade)
    def post(self, request: Request, name: str) -> Response:
        host, token = registration.renew_token(actor=_actor(request), name=name)
        return Response({**HostOut(host).data, "token": token})


class HostRevocation(APIView):
    """Take a host out of the pool for good (maintainers)."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=HostReasonIn, responses=HostOut)
    def post(self, request: Request, name: str) -> Response:
        said = _validated(HostReasonIn, request)
        return Response(HostOut(registration.revoke_host(actor=_actor(request), name=name, **said)).data)


class HostDeparture(APIView):
    """Announce that a host is taken away soon (maintainers)."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=DepartureIn, responses=HostOut)
    def post(self, request: Request, name: str) -> Response:
        said = _validated(DepartureIn, request)
        return Response(HostOut(leaving.announce(actor=_actor(request), name=name, **said)).data)

    @extend_schema(responses={200: HostOut})
    def delete(self, request: Request, name: str) -> Response:
        """Withdraw the notice that a host is taken away (maintainers)."""
        return Response(HostOut(leaving.withdraw(actor=_actor(request), name=name)).data)


def _actor(request: Request) -> User:
    assert isinstance(request.user, User)
    return request.user


def _validated(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    parsed = serializer(data=request.data)
    parsed.is_valid(raise_exception=True)
    return dict(parsed.validated_data)


urlpatterns = [
    path("agent/heartbeat/", AgentHeartbeat.as_view(), name="agent-heartbeat"),
    path("capacity/hosts/", HostList.as_view(), name="capacity-hosts"),
    path("capacity/hosts/<slug:name>/", HostDetail.as_view(), name="capacity-host"),
    path("capacity/hosts/<slug:name>/renew/", HostRenewal.as_view(), name="capacity-host-renew"),
    path("capacity/hosts/<slug:name>/revoke/", HostRevocation.as_view(), name="capacity-host-revoke"),
    path("capacity/hosts/<slug:name>/departure/", HostDeparture.as_view(), name="capacity-host-departure"),
]
