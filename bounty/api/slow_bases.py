"""REST: bases that may have lost what was paid for them. Maintainers read and decide."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import caller, validated
from bounty.limits import MAX_DISPUTE_CHARS
from bounty.models import Repricing, SlowBase, SlowBaseState
from bounty.services.awards.repricing import shown_repricings
from bounty.services.series.slow_bases import ANSWERS, decide_slow_base, slow_bases
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.queries import ListQuery, OneOf


class RepricingOut(serializers.ModelSerializer[Repricing]):
    submission = serializers.UUIDField(source="submission_id")
    run = serializers.UUIDField(
        source="run_id", allow_null=True, help_text="The measurement of its new price."
    )
    award = serializers.UUIDField(
        source="award_id", allow_null=True, help_text="The supplement, once it is paid."
    )

    class Meta:
        model = Repricing
        fields = ["submission", "state", "run", "award", "outcome", "created_at", "ended_at"]


class SlowBaseOut(serializers.ModelSerializer[SlowBase]):
    lineage = serializers.CharField(source="award.submission.bounty.lineage.name")
    run = serializers.UUIDField(source="run_id", help_text="The confirmation or the check that found it.")
    base_tree = serializers.CharField(source="award.confirmation_run.candidate_tree_id")
    paid_submission = serializers.UUIDField(
        source="award.submission_id", help_text="The submission that was paid for this base."
    )
    repricings = serializers.SerializerMethodField(
        help_text="Gains that were priced after it, in the order in which they are priced again once it is slow. "
        "Undecided ones are left out."
    )
    answered_by = serializers.CharField(source="answered_by.username", allow_null=True, default=None)

    class Meta:
        model = SlowBase
        fields = [
            "id",
            "lineage",
            "run",
            "base_tree",
            "paid_submission",
            "state",
            "answer",
            "repricings",
            "answered_by",
            "created_at",
            "answered_at",
        ]

    @extend_schema(responses=RepricingOut(many=True))
    def get_repricings(self, row: SlowBase) -> list[dict[str, Any]]:
        return [dict(RepricingOut(each).data) for each in shown_repricings(row.award.repricings.all())]


class SlowBaseAnswerIn(serializers.Serializer[Any]):
    answer = serializers.ChoiceField(choices=ANSWERS)
    text = serializers.CharField(max_length=MAX_DISPUTE_CHARS, help_text="The reason; the authors read it.")


class SlowBaseQuery(ListQuery):
    state = OneOf(SlowBaseState.values, help_text="The finding's state.")


class SlowBaseList(generics.ListAPIView[SlowBase]):
    """All findings about bases, the newest first. While one is open, its lineage merges nothing."""

    serializer_class = SlowBaseOut
    permission_classes = [IsMaintainer]
    query_class = SlowBaseQuery

    def get_queryset(self) -> QuerySet[SlowBase]:
        return slow_bases()


class SlowBaseAnswer(APIView):
    """Decide that a base kept its gain, or that it is slow. A slow base's award is taken back."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=SlowBaseAnswerIn, responses=SlowBaseOut)
    def post(self, request: Request, pk: UUID) -> Response:
        values: dict[str, Any] = validated(SlowBaseAnswerIn, request)
        return Response(SlowBaseOut(decide_slow_base(actor=caller(request), slow_base_id=pk, **values)).data)
