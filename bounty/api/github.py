"""REST: the GitHub App, its installations and their repositories. Maintainers only."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.github.app.manifest import LONGEST_NAME
from bounty.github.app.status import ask_check, connection, manifest_for
from gainshare.accounts.permissions import IsMaintainer


class RepositoryAtGitHub(serializers.Serializer[Any]):
    github_id = serializers.IntegerField(help_text="GitHub's number, which stays when it is renamed.")
    full_name = serializers.CharField(help_text="OWNER/NAME, as last seen.")
    lineages = serializers.ListField(child=serializers.CharField(), help_text="Lineages bound to it.")
    polled_at = serializers.DateTimeField(allow_null=True)
    events_missing_since = serializers.DateTimeField(allow_null=True)


class InstallationOut(serializers.Serializer[Any]):
    installation_id = serializers.IntegerField()
    account = serializers.CharField(help_text="Its owner's name, as last seen.")
    state = serializers.ChoiceField(["active", "suspended", "removed"])
    permissions = serializers.DictField(child=serializers.CharField())
    problem = serializers.CharField(help_text="What is missing, and who can change that; else empty.")
    quiet_until = serializers.DateTimeField(allow_null=True, help_text="GitHub asked to wait until then.")
    checked_at = serializers.DateTimeField(allow_null=True)
    repositories = RepositoryAtGitHub(many=True)


class GitHubOut(serializers.Serializer[Any]):
    url = serializers.CharField(help_text="Where GitHub is.")
    api_url = serializers.CharField(help_text="Where its REST API is.")
    slug = serializers.CharField(help_text="The App's name in addresses; empty before the first check.")
    page = serializers.CharField(help_text="The App's page; empty before the first check.")
    is_polling = serializers.BooleanField(
        help_text="Whether GitHub cannot reach this site, which then polls."
    )
    missing = serializers.ListField(
        child=serializers.CharField(),
        help_text="What is missing, each with what to do; empty when nothing is.",
    )
    checked_at = serializers.DateTimeField(allow_null=True, help_text="When GitHub was asked last.")
    installations = InstallationOut(many=True)


class ManifestIn(serializers.Serializer[Any]):
    name = serializers.CharField(
        max_length=LONGEST_NAME, default="", allow_blank=True, help_text="The App's name, free at GitHub."
    )


class ManifestOut(serializers.Serializer[Any]):
    manifest = serializers.DictField()
    form_url = serializers.CharField(help_text="Where a form with the field `manifest` makes the App.")
    api_url = serializers.CharField(help_text="Where the code that GitHub answers with is exchanged.")


class GitHubStatus(APIView):
    """Show how the site is connected with GitHub (maintainers)."""

    permission_classes = [IsMaintainer]

    @extend_schema(responses={200: GitHubOut})
    def get(self, request: Request) -> Response:
        return Response(GitHubOut(connection()).data)


class GitHubCheck(APIView):
    """Have the connection with GitHub checked now (maintainers). `checked_at` changes when that is done."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=None, responses={202: GitHubOut})
    def post(self, request: Request) -> Response:
        ask_check()
        return Response(GitHubOut(connection()).data, status=202)


class GitHubManifest(APIView):
    """Show the manifest that GitHub makes an App of (maintainers)."""

    permission_classes = [IsMaintainer]

    @extend_schema(parameters=[ManifestIn], responses={200: ManifestOut})
    def get(self, request: Request) -> Response:
        given = ManifestIn(data=request.query_params)
        given.is_valid(raise_exception=True)
        shown = {
            "manifest": manifest_for(given.validated_data["name"]),
            "form_url": f"{settings.GITHUB_URL}/settings/apps/new",
            "api_url": settings.GITHUB_API_URL,
        }
        return Response(ManifestOut(shown).data)
