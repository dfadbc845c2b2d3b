"""REST: awards."""

from django.db.models import QuerySet
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny

from bounty.api.bounty_names import BountyFilter, BountyNumber
from bounty.models import Award, AwardState
from gainshare.accounts.queries import ListQuery, OneOf, Person


class AwardOut(serializers.ModelSerializer[Award]):
    submission = serializers.UUIDField(source="submission_id")
    submitter = serializers.CharField(source="submission.submitter.username")
    recipient = serializers.CharField(
        source="recipient.username",
        help_text="The user who is paid. For a reproduction that is not the submission's author.",
    )
    bounty = serializers.UUIDField(source="submission.bounty_id")
    bounty_number = BountyNumber(of="submission.bounty")

    class Meta:
        model = Award
        fields = [
            "id",
            "submission",
            "submitter",
            "role",
            "recipient",
            "bounty",
            "bounty_number",
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


class AwardQuery(ListQuery):
    lookups = {"submitter": "submission__submitter__username", "bounty": "submission__bounty"}

    submitter = Person(help_text='The author of the submission: a user name, or "me".')
    bounty = BountyFilter()
    state = OneOf(
        [state.value for state in AwardState if state != AwardState.RESERVED],
        help_text="The award's state. Reservations are never listed.",
    )


class AwardList(generics.ListAPIView[Award]):
    """Priced awards, the newest first. Reservations are hidden, because they reveal the gate's estimate."""

    serializer_class = AwardOut
    permission_classes = [AllowAny]
    query_class = AwardQuery

    def get_queryset(self) -> QuerySet[Award]:
        return Award.objects.filter(amount_microcredits__isnull=False).select_related(
            "submission__submitter", "submission__bounty", "reproduction__author"
        )
