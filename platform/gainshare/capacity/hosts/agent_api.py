"""REST for node agents, under /api/v1/agent/. An agent authenticates with ``Authorization: Bearer gsh_…``."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.parsing import BoundedJSONParser
from gainshare.accounts.schema import refused
from gainshare.capacity.agent.protocol import (
    FIRST_PORT,
    HEARTBEAT_S,
    LAST_PORT,
    MAX_DEVICES,
    MAX_REPORTED,
    MAX_REQUESTS,
    MAX_TEXT,
    STATES,
    CanaryReport,
    DeviceReport,
    EndedReport,
    Heartbeat,
    Load,
)
from gainshare.capacity.deployments.heard import heard
from gainshare.capacity.hosts.heartbeats import take_heartbeat
from gainshare.capacity.hosts.tokens import MARK, authenticate_host
from gainshare.capacity.models import Host

MAX_BYTES = 64 * 1024
A_DAY_S = 86_400


class HostTokenAuthentication(BaseAuthentication):
    """Authentication by host token: sets ``request.auth`` and ``request.user`` to the :class:`Host`."""

    def authenticate(self, request: Request) -> tuple[Host, Host] | None:
        parts = get_authorization_header(request).split()
        if len(parts) != 2 or parts[0].lower() != b"bearer":
            return None
        token = parts[1].decode("latin-1")
        if not token.startswith(MARK):
            return None
        host = authenticate_host(token)
        if host is None:
            raise AuthenticationFailed("The host token is unknown or revoked.", code="invalid_token")
        return host, host

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HostTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the base registers itself untyped
    target_class = HostTokenAuthentication
    name = "hostToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "gsh_…"}


class IsHost(BasePermission):
    message = "Only a host's node agent may do this, with the host's token."

    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.auth, Host)


class SmallJSONParser(BoundedJSONParser):
    """JSON parser for heartbeats."""

    max_bytes = MAX_BYTES


class NodeLoadIn(serializers.Serializer[Any]):
    running = serializers.IntegerField(min_value=0, max_value=MAX_REQUESTS)
    waiting = serializers.IntegerField(min_value=0, max_value=MAX_REQUESTS)
    cache_use = serializers.FloatField(min_value=0, max_value=1)


class DeviceIn(serializers.Serializer[Any]):
    device = serializers.IntegerField(min_value=0, max_value=MAX_REPORTED - 1)
    node = serializers.UUIDField(allow_null=True, help_text="What runs there; null: the device is free.")
    state = serializers.ChoiceField(choices=[(state, state) for state in STATES])
    port = serializers.IntegerField(min_value=FIRST_PORT, max_value=LAST_PORT, allow_null=True, default=None)
    load = NodeLoadIn(allow_null=True, default=None)

    berth = serializers.IntegerField(
        min_value=0,
        max_value=1,
        default=0,
        help_text="A device may be named once for each; one left out is free.",
    )


class CanaryRunningIn(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    progress = serializers.CharField(max_length=MAX_TEXT, allow_blank=True)


class EndedIn(serializers.Serializer[Any]):
    node = serializers.UUIDField()
    reason = serializers.CharField(max_length=MAX_TEXT)


class NodeHeartbeatIn(serializers.Serializer[Any]):
    agent = serializers.UUIDField(help_text="A new id at each start of the agent.")
    beat = serializers.IntegerField(min_value=1, max_value=2**53, help_text="Counts from 1 within one agent.")
    n_devices = serializers.IntegerField(
        min_value=0, max_value=MAX_DEVICES, help_text="Devices that may get nodes; 0 while the agent ends."
    )
    devices = serializers.ListField(child=DeviceIn(), max_length=MAX_REPORTED)
    ended = serializers.ListField(child=EndedIn(), max_length=MAX_REPORTED, default=list)
    version = serializers.CharField(max_length=64, allow_blank=True, default="")
    problem = serializers.CharField(max_length=MAX_TEXT, allow_blank=True, default="")
    leaves_in_s = serializers.IntegerField(
        min_value=0, max_value=A_DAY_S, allow_null=True, default=None, help_text="Notice of preemption."
    )
    canary = CanaryRunningIn(allow_null=True, default=None, help_text="The canary that runs here.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        said = [(row["device"], row["berth"]) for row in attrs["devices"]]
        if len(said) != len(set(said)):
            raise serializers.ValidationError({"devices": ["Each berth of a device may be named once."]})
        if missing := set(range(attrs["n_devices"])) - {device for device, _ in said}:
            raise serializers.ValidationError({"devices": [f"These devices are missing: {sorted(missing)}."]})
        return attrs


class NodeOrderOut(serializers.Serializer[Any]):
    node = serializers.UUIDField()
    device = serializers.IntegerField()
    model = serializers.CharField()
    tree = serializers.CharField(allow_blank=True, help_text="Empty: the installed one.")
    token = serializers.CharField(help_text="That requests to this node must send.")
    is_draining = serializers.BooleanField()
    berth = serializers.IntegerField(help_text="0 or 1; the second one is for a successor beside a node.")


class HeartbeatAnswer(serializers.Serializer[Any]):
    nodes = NodeOrderOut(many=True, help_text="All that the agent should run; it ends every other node.")
    canary = serializers.DictField(
        allow_null=True,
        help_text="The canary that it should run; it ends every other one. `benchmarks.canary.order.CanaryOrder`: id, "
        "model, the trees served, candidate and best, nonce and plan.",
    )
    interval_s = serializers.FloatField(help_text="Seconds until the next heartbeat is due.")


class AgentHeartbeat(APIView):
    """Report a host's devices and nodes, and learn which nodes to run."""

    authentication_classes = [HostTokenAuthentication]
    permission_classes = [IsHost]
    parser_classes = [SmallJSONParser]

    @extend_schema(request=NodeHeartbeatIn, responses={200: HeartbeatAnswer, **refused(403, 409, 413)})
    def post(self, request: Request) -> Response:
        assert isinstance(request.auth, Host)
        parsed = NodeHeartbeatIn(data=request.data)
        parsed.is_valid(raise_exception=True)
        beat = _heartbeat(parsed.validated_data)
        orders = take_heartbeat(
            host_id=request.auth.pk, beat=beat, seen_at=request.META.get("REMOTE_ADDR", "")
        )
        canary = heard(request.auth.pk, beat.canary)
        answer = {
            "nodes": orders,
            "canary": None if canary is None else canary.to_json(),
            "interval_s": HEARTBEAT_S,
        }
        return Response(HeartbeatAnswer(answer).data)


def _heartbeat(said: dict[str, Any]) -> Heartbeat:
    devices = tuple(
        DeviceReport(**{**row, "load": None if row["load"] is None else Load(**row["load"])})
        for row in said["devices"]
    )
    ended = tuple(EndedReport(**row) for row in said["ended"])
    canary = None if said["canary"] is None else CanaryReport(**said["canary"])
    return Heartbeat(**{**said, "devices": devices, "ended": ended, "canary": canary})
