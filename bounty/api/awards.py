"""REST: awards."""

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny

from bounty.models import Award


class AwardOut(serializers.ModelSerializer[Award]):
    submission = serializers.UUIDField(source="submission_id")
    submitter = serializers.CharField(source="submission.submitter.username")
    recipient = serializers.CharField(
        source="recipient.username", help_text="Whom it pays: for a reproduction not the submission's author."
    )
    bounty = serializers.UUIDField(source="submission.bounty_id")

    class Meta:
        model = Award
        fields = [
            "id",
            "submission",
            "submitter",
            "role",
            "recipient",
            "bounty",
            "state",
            "amount_microcredits",
            "rate_microcredits_per_nat",
            "log_ppm_bound",
            "is_partial",
            "transfer_id",
            "booked_at",
            "vested_at",
            "ended_at",
        ]


@extend_schema_view(
    get=extend_schema(
        parameters=[
            OpenApiParameter("submitter", str, description="A user name."),
            OpenApiParameter("bounty", str),
            OpenApiParameter("state", str),
        ]
    )
)
class AwardList(generics.ListAPIView[Award]):
    """Priced awards, the newest first. What is only reserved is not shown: it would tell the gate's estimate."""

    serializer_class = AwardOut
    permission_classes = [AllowAny]

    def get_queryset(self) -> QuerySet[Award]:
        awards = Award.objects.filter(amount_microcredits__isnull=False).select_related(
            "submission__submitter", "reproduction__author"
        )
        query = self.request.query_params
        if name := query.get("submitter"):
            awards = awards.filter(submission__submitter__username=name)
        if bounty := query.get("bounty"):
            awards = awards.filter(submission__bounty=serializers.UUIDField().to_internal_value(bounty))
        if state := query.get("state"):
            awards = awards.filter(state=state)
        return awards
