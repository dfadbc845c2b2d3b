"""REST for credits, treasury, grants, prices and the audit."""

from dataclasses import asdict
from typing import Any

from django.db.models import Q
from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.models import User
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.queries import ListQuery
from gainshare.accounts.schema import refused
from gainshare.accounts.services import NotFound
from gainshare.ledger import price_book, services
from gainshare.ledger.audit import audit
from gainshare.ledger.models import PriceVersion, Transfer
from gainshare.ledger.serializers import (
    AuditSerializer,
    CreditsSerializer,
    FundSerializer,
    GrantSerializer,
    LotSerializer,
    PriceVersionSerializer,
    TransferSerializer,
    TreasurySerializer,
)

RECENT_TRANSFERS = 50


def caller(request: Request) -> User:
    """The logged-in user, whom the permission classes require."""
    assert isinstance(request.user, User)
    return request.user


class CreditsView(APIView):
    """The caller's credits."""

    permission_classes = [HasScope("read")]

    @extend_schema(
        operation_id="credits", summary="Balance, lots and latest transfers", responses=CreditsSerializer
    )
    def get(self, request: Request) -> Response:
        user = caller(request)
        transfers = (
            Transfer.objects.filter(Q(from_account__owner=user) | Q(to_account__owner=user))
            .select_related("from_account", "to_account")
            .order_by("-created_at")[:RECENT_TRANSFERS]
        )
        return Response(
            {
                "balance": asdict(services.balance(user)),
                "lots": LotSerializer(services.lots_of(user), many=True).data,
                "transfers": TransferSerializer(transfers, many=True).data,
            }
        )


class TreasuryView(APIView):
    """Totals of all accounts."""

    permission_classes = [IsMaintainer]

    @extend_schema(operation_id="treasury", summary="Where all credits are", responses=TreasurySerializer)
    def get(self, request: Request) -> Response:
        return Response(asdict(services.totals()))


class FundView(APIView):
    """Issuing credits."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="treasury_fund",
        summary="Issue credits into the treasury",
        request=FundSerializer,
        responses={201: TransferSerializer},
    )
    def post(self, request: Request) -> Response:
        form = FundSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        transfer = services.fund_treasury(actor=caller(request), **form.validated_data)
        return Response(TransferSerializer(transfer).data, status=201)


class GrantsView(APIView):
    """Giving credits to a user."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="grants_create",
        summary="Grant credits to a user",
        request=GrantSerializer,
        responses={201: LotSerializer, **refused(404)},
    )
    def post(self, request: Request) -> Response:
        form = GrantSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        fields = dict(form.validated_data)
        user = User.objects.filter(username=fields.pop("username")).first()
        if user is None:
            raise NotFound("There is no user with this name.")
        lot = services.grant_credits(user=user, actor=caller(request), **fields)
        return Response(LotSerializer(lot).data, status=201)


class PriceQuery(ListQuery):
    """Filters of the price list."""

    model = serializers.CharField(required=False, help_text="A model's name.")


class PricesView(ListAPIView[PriceVersion]):
    """The price book."""

    serializer_class = PriceVersionSerializer
    queryset = PriceVersion.objects.all()
    query_class = PriceQuery

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method in ("GET", "HEAD", "OPTIONS") else [IsMaintainer()]

    @extend_schema(operation_id="prices_list", summary="Every price version")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="prices_publish",
        summary="Publish a price version (maintainers)",
        request=PriceVersionSerializer,
        responses={201: PriceVersionSerializer},
    )
    def post(self, request: Request) -> Response:
        form = PriceVersionSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        version = price_book.publish_price(actor=caller(request), **form.validated_data)
        return Response(PriceVersionSerializer(version).data, status=201)


class AuditView(APIView):
    """The ledger's invariants."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="audit", summary="Check every invariant of the ledger", responses=AuditSerializer
    )
    def get(self, request: Request) -> Response:
        invariants = audit()
        return Response(
            {
                "holds": all(found.holds for found in invariants),
                "invariants": [asdict(found) for found in invariants],
            }
        )


urlpatterns = [
    path("credits/", CreditsView.as_view()),
    path("treasury/", TreasuryView.as_view()),
    path("treasury/fund/", FundView.as_view()),
    path("grants/", GrantsView.as_view()),
    path("prices/", PricesView.as_view()),
    path("audit/", AuditView.as_view()),
]
