"""REST for gain sharing: a lineage's law, and the caller's royalties."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.permissions import SAFE_METHODS, AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.sharing.royalties import MOST_DAYS
from benchmarks.sharing.savings import MILLION
from bounty.api.parsing import caller, validated
from bounty.errors import NotFound
from bounty.models import Lineage, RoyaltyPayment
from bounty.services.royalties.laws import MAX_REASON, law_at, set_law
from bounty.services.royalties.payments import payments_of
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.schema import refused


class LawIn(serializers.Serializer[Any]):
    share_ppm = serializers.IntegerField(
        min_value=0, max_value=MILLION, help_text="The contributor's share of a saving, in millionths."
    )
    days = serializers.IntegerField(
        min_value=0, max_value=MOST_DAYS, help_text="From when a gain is first served."
    )
    reason = serializers.CharField(max_length=MAX_REASON, help_text="Shown on the lineage's page.")


class LawOut(serializers.Serializer[Any]):
    """The law that a submission would have that is made now."""

    lineage = serializers.CharField()
    share_ppm = serializers.IntegerField()
    days = serializers.IntegerField()


class LineageLaw(APIView):
    """How a lineage's gains are shared."""

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method in SAFE_METHODS else [IsMaintainer()]

    @extend_schema(
        operation_id="lineage_law",
        summary="How gains of the lineage are shared",
        responses={200: LawOut, **refused(404)},
    )
    def get(self, request: Request, name: str) -> Response:
        lineage = Lineage.objects.filter(name=name).first()
        if lineage is None:
            raise NotFound("There is no lineage with this name.")
        law = law_at(lineage.pk, timezone.now())
        return Response({"lineage": name, "share_ppm": law.share_ppm, "days": law.days})

    @extend_schema(
        operation_id="lineage_law_set",
        summary="Share later gains otherwise (maintainers)",
        description="Holds for submissions that are sealed from now on. Repeating it changes nothing.",
        request=LawIn,
        responses={200: LawOut, **refused(404)},
    )
    def post(self, request: Request, name: str) -> Response:
        law = set_law(actor=caller(request), lineage=name, **validated(LawIn, request))
        return Response({"lineage": name, "share_ppm": law.share_ppm, "days": law.days})


class RoyaltyOut(serializers.ModelSerializer[RoyaltyPayment]):
    """What one gain earned on one day, on one line of the bills."""

    submission = serializers.UUIDField(source="term.submission_id")
    model = serializers.CharField(source="term.model")
    line = serializers.CharField(source="term.line", help_text="prefill, decode or memory.")
    state = serializers.CharField(
        help_text="pending: vests after the window for reversals; posted; or voided."
    )

    class Meta:
        model = RoyaltyPayment
        fields: tuple[str, ...] = ("day", "submission", "model", "line", "amount_microcredits", "state")


class RoyaltyList(ListAPIView[RoyaltyPayment]):
    """Your royalties, newest day first."""

    permission_classes = [HasScope("read")]
    serializer_class = RoyaltyOut
    queryset = RoyaltyPayment.objects.none()

    def get_queryset(self) -> QuerySet[RoyaltyPayment]:
        return payments_of(caller(self.request))
