"""REST: the repositories that lineages are bound to."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import SAFE_METHODS, AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import caller, validated
from bounty.github.repositories.addresses import DEFAULT_FOLDER
from bounty.github.repositories.bindings import ask_fetch, bind, find_binding, unbind
from bounty.github.repositories.connections import connect
from bounty.models import RepositoryBinding
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.schema import refused


class RepositoryIn(serializers.Serializer[Any]):
    repository = serializers.CharField(
        max_length=300, help_text="OWNER/NAME at GitHub, or an https address without a password."
    )
    branch = serializers.CharField(max_length=200)
    folder = serializers.CharField(
        max_length=240, default=DEFAULT_FOLDER, help_text="The folder that is the lineage's model/."
    )


class ConnectIn(serializers.Serializer[Any]):
    github_id = serializers.IntegerField(
        min_value=1, help_text="GitHub's number of a repository that the App sees."
    )
    branch = serializers.CharField(max_length=200)
    folder = serializers.CharField(
        max_length=240, default=DEFAULT_FOLDER, help_text="The folder that is the lineage's model/."
    )
    daily_microcredits = serializers.IntegerField(
        min_value=0, default=0, help_text="What comments in its pull requests can spend in a day (UTC)."
    )


class RepositoryOut(serializers.ModelSerializer[RepositoryBinding]):
    lineage = serializers.CharField(source="lineage.name")
    tip = serializers.CharField(source="lineage.tip_id", help_text="The lineage's tip.")
    commit = serializers.CharField(help_text="The commit that was followed last; empty before the first one.")
    tree = serializers.CharField(
        source="tree_id", allow_null=True, help_text="The tree of the folder at that commit."
    )
    github = serializers.CharField(
        source="github.full_name",
        default=None,
        allow_null=True,
        help_text="OWNER/NAME of the repository whose pull requests are judged; null if none are.",
    )
    problem = serializers.CharField(help_text="Why the branch's newest commit is not followed; else empty.")
    merge_stop_reason = serializers.CharField(
        source="lineage.merge_stop_reason",
        help_text="Why merges are stopped, after a push that lost the tip; else empty.",
    )

    class Meta:
        model = RepositoryBinding
        fields = [
            "lineage", "url", "branch", "folder", "commit", "tree", "tip", "problem", "merge_stop_reason", "checked_at",
            "created_at", "github", "daily_microcredits",
        ]  # fmt: skip


class LineageRepository(APIView):
    """The repository that a lineage is bound to. Its branch is fetched every minute, and a push moves the tip."""

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method in SAFE_METHODS else [IsMaintainer()]

    @extend_schema(responses={200: RepositoryOut, **refused(404)})
    def get(self, request: Request, name: str) -> Response:
        return Response(RepositoryOut(find_binding(name)).data)

    @extend_schema(request=RepositoryIn, responses={200: RepositoryOut, **refused(404)})
    def post(self, request: Request, name: str) -> Response:
        """Bind a lineage, in the place of an earlier binding (maintainers). Repeating it changes nothing."""
        return Response(
            RepositoryOut(bind(actor=caller(request), name=name, **validated(RepositoryIn, request))).data
        )

    @extend_schema(responses={204: None, **refused(404, 409)})
    def delete(self, request: Request, name: str) -> Response:
        """End the binding (maintainers). The tip stays as it is."""
        unbind(actor=caller(request), name=name)
        return Response(status=204)


class LineageRepositoryConnect(APIView):
    """The connection of a lineage to a repository at GitHub, whose pull requests are judged."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=ConnectIn, responses={200: RepositoryOut, **refused(404, 409)})
    def post(self, request: Request, name: str) -> Response:
        """Connect a lineage to a repository that the App sees (maintainers). It is bound to it too."""
        terms = validated(ConnectIn, request)
        return Response(RepositoryOut(connect(actor=caller(request), name=name, **terms)).data)


class LineageRepositoryFetch(APIView):
    """Have the repository fetched now (maintainers). `checked_at` changes when that is done."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=None, responses={202: RepositoryOut, **refused(404)})
    def post(self, request: Request, name: str) -> Response:
        return Response(RepositoryOut(ask_fetch(actor=caller(request), name=name)).data, status=202)
