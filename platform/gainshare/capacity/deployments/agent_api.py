"""REST for node agents: trees to run, the host's key, and documents of canaries. With the host's token only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.parsing import BoundedJSONParser
from gainshare.accounts.schema import refused
from gainshare.capacity.deployments.canaries import fail
from gainshare.capacity.deployments.evidence import take_document
from gainshare.capacity.deployments.keys import register_key
from gainshare.capacity.deployments.serializers import CanaryIn, CanaryOut, KeyIn, KeyOut, TreeFilesOut
from gainshare.capacity.deployments.trees import blob_for_agent, manifest_for_agent
from gainshare.capacity.hosts.agent_api import HostTokenAuthentication, IsHost, SmallJSONParser
from gainshare.capacity.models import Host
from gainshare.capacity.scaling.api import AnyAccept

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024


class DocumentParser(BoundedJSONParser):
    """JSON parser for a canary's document."""

    max_bytes = MAX_DOCUMENT_BYTES


class OfHost(APIView):
    """Only hosts' agents may call these."""

    authentication_classes = [HostTokenAuthentication]
    permission_classes = [IsHost]

    @property
    def host(self) -> Host:
        assert isinstance(self.request.auth, Host)
        return self.request.auth


class AgentTree(OfHost):
    """Files of a tree that a deployment names."""

    @extend_schema(
        operation_id="agent_tree",
        summary="Files of a deployed tree, for node agents",
        responses={200: TreeFilesOut, **refused(403, 404)},
    )
    def get(self, request: Request, tree: str) -> Response:
        return Response(manifest_for_agent(tree))


class AgentBlob(OfHost):
    """One file of such a tree."""

    content_negotiation_class = AnyAccept

    @extend_schema(
        operation_id="agent_blob",
        summary="Bytes of one file of a deployed tree, for node agents",
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY, **refused(403, 404)},
    )
    def get(self, request: Request, sha256: str) -> HttpResponse:
        return HttpResponse(blob_for_agent(sha256), content_type="application/octet-stream")


class AgentKey(OfHost):
    """The key that signs a host's canaries."""

    parser_classes = [SmallJSONParser]

    @extend_schema(
        operation_id="agent_key",
        summary="Register the key that signs a host's canaries, once a token",
        request=KeyIn,
        responses={200: KeyOut, **refused(403, 409, 413)},
    )
    def post(self, request: Request) -> Response:
        parsed = KeyIn(data=request.data)
        parsed.is_valid(raise_exception=True)
        return Response({"public_key": register_key(host=self.host, **parsed.validated_data)})


class AgentCanary(OfHost):
    """The end of a canary."""

    parser_classes = [DocumentParser]

    @extend_schema(
        operation_id="agent_canary",
        summary="Send a canary's sealed document, or why it failed",
        request=CanaryIn,
        responses={200: CanaryOut, **refused(403, 404, 409, 413, 422)},
    )
    def post(self, request: Request, pk: UUID) -> Response:
        parsed = CanaryIn(data=request.data)
        parsed.is_valid(raise_exception=True)
        said: dict[str, Any] = parsed.validated_data
        if "failed" in said:
            ended = fail(
                host=self.host, deployment_id=pk, reason=said["failed"], is_of_tree=said["is_of_tree"]
            )
        else:
            ended = take_document(host=self.host, deployment_id=pk, sealed=said["document"])
        return Response({"state": ended.state, "why": ended.why})


urlpatterns = [
    path("agent/trees/<str:tree>/", AgentTree.as_view(), name="agent-tree"),
    path("agent/blobs/<str:sha256>/", AgentBlob.as_view(), name="agent-blob"),
    path("agent/key/", AgentKey.as_view(), name="agent-key"),
    path("agent/canaries/<uuid:pk>/", AgentCanary.as_view(), name="agent-canary"),
]
