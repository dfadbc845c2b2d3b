"""REST: bounties and their leaderboards."""

import math
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.bounty_names import BountyNumber
from bounty.api.parsing import IDEMPOTENCY_KEY, RawTextField, caller, once_for, validated
from bounty.models import Bounty, BountyState, Severity
from bounty.services.bounties import add_funds, close_bounty, find_bounty, shown_escrow
from bounty.services.leaderboards import Place, leaderboard
from bounty.services.reproductions import adopted, open_by_terms
from bounty.services.series.best import measured_base, patch_base
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.queries import ListQuery, OneOf
from gainshare.accounts.schema import refused
from gainshare.ledger.serializers import AmountField


class BountyIn(serializers.Serializer[Any]):
    title = serializers.CharField(max_length=200)
    description = serializers.CharField(allow_blank=True, default="", max_length=20_000)
    lineage = serializers.CharField(help_text="A lineage's name.")
    suite = serializers.CharField()
    preset = serializers.CharField(default="standard")
    hardware = serializers.SlugField(default="cpu", max_length=60)
    escrow_microcredits = AmountField()
    rate_microcredits_per_nat = AmountField(min_value=0, default=0, help_text="Not for a bug bounty.")
    severity = serializers.ChoiceField(
        choices=Severity.choices, allow_blank=True, default="", help_text="Only for a bug bounty (suite bug)."
    )
    award_microcredits = AmountField(
        allow_null=True, default=None, help_text="Only for a bug bounty: for reproduction and fix together."
    )
    reproduction_ppm = serializers.IntegerField(
        min_value=0,
        max_value=999_999,
        allow_null=True,
        default=None,
        help_text="The reproduction's share of it in millionths; 300000 by default.",
    )
    reproduction = RawTextField(
        default="",
        help_text="A reproduction of the bug, if you have one. All of the award is then for the fix.",
    )
    min_reviewers = serializers.IntegerField(min_value=1, max_value=10, default=1)
    two_reviews_above_microcredits = AmountField(min_value=0, allow_null=True, default=None)
    review_window_s = serializers.IntegerField(
        min_value=1, max_value=10_000_000, allow_null=True, default=None
    )
    max_attempts = serializers.IntegerField(min_value=1, max_value=1000, default=10)
    deadline_at = serializers.DateTimeField(allow_null=True, default=None)
    accept_no_runner = serializers.BooleanField(
        default=False,
        help_text=(
            "Open it although no runner has this hardware. Otherwise the request is refused with 409 `no_runner`."
        ),
    )


class BountyOut(serializers.ModelSerializer[Bounty]):
    number = BountyNumber()
    lineage = serializers.CharField(source="lineage.name")
    is_demo = serializers.BooleanField(source="lineage.is_demo")
    created_by = serializers.CharField(source="created_by.username")

    class Meta:
        model = Bounty
        fields = [
            "id",
            "number",
            "title",
            "description",
            "lineage",
            "is_demo",
            "suite",
            "preset",
            "hardware",
            "escrow_microcredits",
            "rate_microcredits_per_nat",
            "severity",
            "award_microcredits",
            "reproduction_ppm",
            "min_reviewers",
            "two_reviews_above_microcredits",
            "review_window_s",
            "max_attempts",
            "deadline_at",
            "state",
            "created_by",
            "created_at",
            "closed_at",
        ]


class EscrowOut(serializers.Serializer[Any]):
    posted = serializers.IntegerField()
    reserved = serializers.IntegerField(help_text="For awards that are booked and not paid yet.")
    available = serializers.IntegerField(
        help_text="The rest, with what is set aside for gains that are not decided yet."
    )


class BountyDetailOut(BountyOut):
    reproduction = serializers.SerializerMethodField(
        help_text="The id of the bug's reproduction, once it has one."
    )
    escrow = serializers.SerializerMethodField()
    patch_base = serializers.SerializerMethodField(help_text="The tree that diffs must be made against now.")
    measured_base = serializers.SerializerMethodField(
        help_text="The tree that candidates are measured against: the best tree until it is merged, then the tip."
    )

    class Meta(BountyOut.Meta):
        fields = [*BountyOut.Meta.fields, "reproduction", "escrow", "patch_base", "measured_base"]

    def get_reproduction(self, bounty: Bounty) -> str | None:
        found = adopted(bounty=bounty)
        return str(found.pk) if found is not None else None

    @extend_schema(responses=EscrowOut)
    def get_escrow(self, bounty: Bounty) -> dict[str, Any]:
        return dict(EscrowOut(shown_escrow([bounty])[bounty.pk]).data)

    def get_patch_base(self, bounty: Bounty) -> str:
        return patch_base(bounty=bounty).pk

    def get_measured_base(self, bounty: Bounty) -> str:
        return measured_base(bounty=bounty).pk


class FundIn(serializers.Serializer[Any]):
    transfer_id = serializers.UUIDField(
        help_text="A UUID that you make. Repeating a request with the same id moves nothing."
    )
    amount_microcredits = AmountField()


class CloseIn(serializers.Serializer[Any]):
    reason = serializers.CharField(default="closed by a maintainer", max_length=1000)


class PlaceOut(serializers.Serializer[Any]):
    rank = serializers.IntegerField(help_text="1 is first; gains whose intervals overlap share a rank.")
    submitter = serializers.CharField()
    submission = serializers.UUIDField()
    bounty = serializers.UUIDField(help_text="The bounty of the series that paid it.")
    log_ppm_bound = serializers.IntegerField(
        help_text="Its own gain: the confirmed lower bound, in millionths of a nat."
    )
    log_ppm_estimate = serializers.IntegerField(help_text="Its own gain: the confirmation's median.")
    log_ppm_reached = serializers.IntegerField(
        help_text="Speed over the series' origin: the sum of the bounds up to this gain."
    )
    log_ppm_most = serializers.IntegerField(help_text="The upper end of that interval.")
    speed_up = serializers.SerializerMethodField(help_text="log_ppm_bound as a factor, for people to read.")
    speed = serializers.SerializerMethodField(help_text="log_ppm_reached as a factor, for people to read.")
    amount_microcredits = serializers.IntegerField()
    state = serializers.CharField()
    booked_at = serializers.DateTimeField()

    def get_speed_up(self, place: Place) -> float:
        return _factor(place.log_ppm_bound)

    def get_speed(self, place: Place) -> float:
        return _factor(place.log_ppm_reached)


def _factor(log_ppm: int) -> float:
    """Factor of a log ratio, for display only: no verdict, price or rank depends on it."""
    return round(math.exp(log_ppm / 1e6), 4)


class BountyQuery(ListQuery):
    state = OneOf(BountyState.values, help_text="The bounty's state.")


class BountyList(generics.ListAPIView[Bounty]):
    """All bounties, the newest first."""

    queryset = Bounty.objects.select_related("lineage", "created_by")
    serializer_class = BountyOut
    query_class = BountyQuery

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "POST" else [IsMaintainer()]

    @extend_schema(
        request=BountyIn, responses={201: BountyDetailOut, **refused(404)}, parameters=[IDEMPOTENCY_KEY]
    )
    def post(self, request: Request) -> Response:
        """Open a bounty (maintainers). Its escrow is taken from the treasury."""
        terms, actor = validated(BountyIn, request), caller(request)
        made = once_for(request, "bounty", terms, lambda: str(open_by_terms(actor=actor, **terms).pk))
        return Response(BountyDetailOut(find_bounty(UUID(made))).data, status=201)


class BountyDetail(generics.RetrieveAPIView[Bounty]):
    """One bounty, with its escrow and its present base trees."""

    queryset = Bounty.objects.select_related("lineage", "created_by")
    serializer_class = BountyDetailOut
    permission_classes = [AllowAny]

    def get_object(self) -> Bounty:
        return find_bounty(self.kwargs["pk"])


class BountyClose(APIView):
    """Close a bounty. Open submissions are still judged and paid; then the rest of the escrow returns."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=CloseIn, responses=BountyDetailOut)
    def post(self, request: Request, pk: str) -> Response:
        reason = validated(CloseIn, request)["reason"]
        bounty = close_bounty(bounty_id=find_bounty(pk).pk, reason=reason, actor=caller(request))
        return Response(BountyDetailOut(bounty).data)


class BountyFund(APIView):
    """Add to the escrow from the treasury."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=FundIn, responses=BountyDetailOut)
    def post(self, request: Request, pk: str) -> Response:
        bounty = add_funds(actor=caller(request), bounty_id=find_bounty(pk).pk, **validated(FundIn, request))
        return Response(BountyDetailOut(bounty).data)


class BountyLeaderboard(APIView):
    """The confirmed gains of a bounty's series, the fastest first.

    Includes all bounties of that series. Each entry has the speed that it reached and its own gain.
    """

    permission_classes = [AllowAny]

    @extend_schema(responses=PlaceOut(many=True))
    def get(self, request: Request, pk: str) -> Response:
        return Response(PlaceOut(leaderboard(bounty=find_bounty(pk)), many=True).data)
