"""REST: disputes. Authors file them, maintainers answer them, anyone can read them."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import asking, caller, validated
from bounty.limits import MAX_DISPUTE_CHARS
from bounty.models import Dispute, DisputeState
from bounty.services.access import sees
from bounty.services.disputes import ANSWERS, answer_dispute, disputes, file_dispute, find_dispute
from bounty.visibility import Part
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.queries import ListQuery, OneOf, Person
from gainshare.accounts.schema import refused

SEALED_RUN = "Null also while the caller may not see the submission's runs."


class DisputeOut(serializers.ModelSerializer[Dispute]):
    submission = serializers.UUIDField(source="submission_id")
    run = serializers.SerializerMethodField(help_text=SEALED_RUN)
    author = serializers.CharField(source="author.username")
    answered_by = serializers.CharField(source="answered_by.username", allow_null=True, default=None)
    ordered_run = serializers.SerializerMethodField(help_text=SEALED_RUN)
    verdict_kind = serializers.SerializerMethodField(help_text="Empty while it is sealed.")
    verdict_reason = serializers.SerializerMethodField(help_text="Empty while it is sealed.")

    class Meta:
        model = Dispute
        fields = [
            "id",
            "submission",
            "run",
            "verdict_kind",
            "verdict_reason",
            "author",
            "text",
            "state",
            "answer",
            "answered_by",
            "ordered_run",
            "created_at",
            "answered_at",
        ]

    @extend_schema(responses=serializers.UUIDField(allow_null=True))
    def get_run(self, dispute: Dispute) -> str | None:
        return self._shown(dispute, dispute.run_id)

    @extend_schema(responses=serializers.UUIDField(allow_null=True))
    def get_ordered_run(self, dispute: Dispute) -> str | None:
        return self._shown(dispute, dispute.ordered_run_id)

    def _shown(self, dispute: Dispute, run_id: UUID | None) -> str | None:
        is_shown = run_id is not None and sees(asking(self), Part.COURSE, dispute.submission)
        return str(run_id) if is_shown else None

    def get_verdict_kind(self, dispute: Dispute) -> str:
        return dispute.verdict_kind if sees(asking(self), Part.VERDICT, dispute.submission) else ""

    def get_verdict_reason(self, dispute: Dispute) -> str:
        return dispute.verdict_reason if sees(asking(self), Part.FIGURES, dispute.submission) else ""


class DisputeIn(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=MAX_DISPUTE_CHARS, help_text="What is wrong with the verdict.")


class AnswerIn(serializers.Serializer[Any]):
    answer = serializers.ChoiceField(choices=sorted(ANSWERS))
    text = serializers.CharField(max_length=MAX_DISPUTE_CHARS, help_text="The reason; the author reads it.")


class SubmissionDispute(APIView):
    """Dispute the verdict of your own submission. A maintainer answers."""

    permission_classes = [HasScope("submit")]

    @extend_schema(request=DisputeIn, responses={201: DisputeOut, **refused(429)})
    def post(self, request: Request, pk: UUID) -> Response:
        text = validated(DisputeIn, request)["text"]
        dispute = file_dispute(actor=caller(request), submission_id=pk, text=text)
        return Response(DisputeOut(dispute, context={"request": request}).data, status=201)


class DisputeQuery(ListQuery):
    lookups = {"author": "author__username"}

    state = OneOf(DisputeState.values, help_text="The dispute's state.")
    author = Person(help_text='The author: a user name, or "me".')
    submission = serializers.UUIDField(required=False, help_text="A submission's id.")


class DisputeList(generics.ListAPIView[Dispute]):
    """All disputes, the newest first."""

    serializer_class = DisputeOut
    permission_classes = [AllowAny]
    query_class = DisputeQuery

    def get_queryset(self) -> QuerySet[Dispute]:
        return disputes()


class DisputeDetail(APIView):
    """One dispute with its answer."""

    permission_classes = [AllowAny]

    @extend_schema(responses=DisputeOut)
    def get(self, request: Request, pk: UUID) -> Response:
        return Response(DisputeOut(find_dispute(pk), context={"request": request}).data)


class DisputeAnswer(APIView):
    """Uphold the verdict, order a re-measurement, or overturn it. You cannot answer your own dispute."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=AnswerIn, responses=DisputeOut)
    def post(self, request: Request, pk: UUID) -> Response:
        values: dict[str, Any] = validated(AnswerIn, request)
        return Response(
            DisputeOut(
                answer_dispute(actor=caller(request), dispute_id=pk, **values), context={"request": request}
            ).data
        )
