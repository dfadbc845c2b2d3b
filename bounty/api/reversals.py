"""REST: branches that took a merged gain back, or brought it again. Maintainers read and decide."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import caller, validated
from bounty.github.merging.reversals import ANSWERS, decide, reversals
from bounty.limits import MAX_DISPUTE_CHARS
from bounty.models import Reversal, ReversalState
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.queries import ListQuery, OneOf


class ReversalOut(serializers.ModelSerializer[Reversal]):
    lineage = serializers.CharField(source="lineage.name")
    submission = serializers.UUIDField(source="submission_id")
    answered_by = serializers.CharField(source="answered_by.username", allow_null=True, default=None)

    class Meta:
        model = Reversal
        fields = [
            "id",
            "lineage",
            "submission",
            "kind",
            "commit",
            "state",
            "answer",
            "answered_by",
            "created_at",
            "ended_at",
        ]


class ReversalAnswerIn(serializers.Serializer[Any]):
    answer = serializers.ChoiceField(choices=ANSWERS)
    text = serializers.CharField(max_length=MAX_DISPUTE_CHARS, help_text="The reason; the author reads it.")


class ReversalQuery(ListQuery):
    state = OneOf(ReversalState.values, help_text="The question's state.")


class ReversalList(generics.ListAPIView[Reversal]):
    """Questions about branches that went back, or have the code again. The tip stays while one is open."""

    serializer_class = ReversalOut
    permission_classes = [IsMaintainer]
    query_class = ReversalQuery

    def get_queryset(self) -> QuerySet[Reversal]:
        return reversals()


class ReversalAnswer(APIView):
    """Confirm or dismiss. Confirmed, a reversal takes the award back, and a restoration pays it to its author again."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=ReversalAnswerIn, responses=ReversalOut)
    def post(self, request: Request, pk: UUID) -> Response:
        values: dict[str, Any] = validated(ReversalAnswerIn, request)
        return Response(ReversalOut(decide(actor=caller(request), reversal_id=pk, **values)).data)
