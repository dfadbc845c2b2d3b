"""REST: reproductions of bugs."""

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.bounty_names import BountyFilter, BountyName, BountyNumber
from bounty.api.parsing import RawTextField, StatedReason, caller, validated
from bounty.api.runs import ChangeOut, RunOut
from bounty.models import Reproduction, ReproductionState
from bounty.services.reproductions import decline, find_reproduction, reproduce
from bounty.services.transitions import history
from bounty.services.trees import blob_store
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.queries import ListQuery, OneOf, Person
from gainshare.accounts.schema import refused


class ReproductionIn(serializers.Serializer[Any]):
    bounty = BountyName(help_text="A bounty's number, such as B12, or its id.")
    text = RawTextField(help_text="A Python file with `observe()` and `check(seen)`, at most 16 KiB.")


class ReproductionVerdictOut(serializers.Serializer[Any]):
    kind = serializers.CharField(source="verdict_kind")
    reason = serializers.CharField(source="verdict_reason")


class ReproductionOut(serializers.ModelSerializer[Reproduction]):
    bounty = serializers.UUIDField(source="bounty_id")
    bounty_number = BountyNumber(of="bounty")
    author = serializers.CharField(source="author.username")
    tree = serializers.CharField(source="tree_id", help_text="The tree that it was run on.")
    sha256 = serializers.CharField(source="blob", help_text="Digest of the file, as in the evidence.")
    verdict = serializers.SerializerMethodField()

    class Meta:
        model = Reproduction
        fields = [
            "id",
            "bounty",
            "bounty_number",
            "author",
            "tree",
            "sha256",
            "earns",
            "state",
            "verdict",
            "sealed_at",
            "judged_at",
        ]

    @extend_schema(responses=ReproductionVerdictOut)
    def get_verdict(self, reproduction: Reproduction) -> dict[str, Any] | None:
        return dict(ReproductionVerdictOut(reproduction).data) if reproduction.verdict_kind else None


class ReproductionDetailOut(ReproductionOut):
    runs = RunOut(many=True)
    changes = serializers.SerializerMethodField()

    class Meta(ReproductionOut.Meta):
        fields = [*ReproductionOut.Meta.fields, "runs", "changes"]

    @extend_schema(responses=ChangeOut(many=True))
    def get_changes(self, reproduction: Reproduction) -> list[dict[str, Any]]:
        return [dict(ChangeOut(change).data) for change in history(reproduction)]


def rendered(reproduction: Reproduction, status: int = 200) -> Response:
    """The detail of a reproduction, reloaded from the database."""
    return Response(ReproductionDetailOut(find_reproduction(reproduction.pk)).data, status=status)


class ReproductionQuery(ListQuery):
    lookups = {"author": "author__username"}

    bounty = BountyFilter()
    state = OneOf(ReproductionState.values, help_text="The reproduction's state.")
    author = Person(help_text='The author: a user name, or "me".')


class ReproductionList(generics.ListAPIView[Reproduction]):
    """All reproductions, in the order in which they were submitted."""

    queryset = Reproduction.objects.select_related("author", "bounty")
    serializer_class = ReproductionOut
    query_class = ReproductionQuery

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "POST" else [HasScope("submit")()]

    @extend_schema(request=ReproductionIn, responses={201: ReproductionDetailOut, **refused(404, 429)})
    def post(self, request: Request) -> Response:
        """Submit a file that shows a bug."""
        values = validated(ReproductionIn, request)
        made = reproduce(actor=caller(request), bounty_id=values["bounty"], text=values["text"])
        return rendered(made, 201)


class ReproductionDetail(APIView):
    """One reproduction. State, verdict, run, and every change with its reason."""

    permission_classes = [AllowAny]

    @extend_schema(responses=ReproductionDetailOut)
    def get(self, request: Request, pk: UUID) -> Response:
        return rendered(find_reproduction(pk))


class ReproductionText(APIView):
    """The file of a reproduction, as it was submitted."""

    permission_classes = [AllowAny]

    @extend_schema(responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request, pk: UUID) -> HttpResponse:
        data = blob_store().get(find_reproduction(pk).blob)
        return HttpResponse(data, content_type="text/plain; charset=utf-8")


class ReproductionDecline(APIView):
    """Decline a reproduction that shows no bug (maintainers). The next one in order takes its place."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=StatedReason, responses=ReproductionDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        reason = validated(StatedReason, request)["reason"]
        return rendered(decline(actor=caller(request), reproduction_id=pk, reason=reason))
