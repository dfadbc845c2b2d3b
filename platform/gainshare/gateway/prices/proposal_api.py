"""REST for proposals of prices: GET and POST /api/v1/prices/proposals/."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gainshare.accounts.models import User
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.schema import refused
from gainshare.gateway.prices.proposals import propose, publish_proposal
from gainshare.ledger.serializers import PriceVersionSerializer


class ProposalQuery(serializers.Serializer[Any]):
    """Which model."""

    model = serializers.CharField(max_length=120, help_text="A model's name.")


class SavingStepSerializer(serializers.Serializer[Any]):
    """One deployment's saving on a line."""

    deployment = serializers.UUIDField()
    tree = serializers.CharField(help_text="Hash; empty: the installed tree.")
    level_before_log_ppm = serializers.IntegerField(help_text="Millionths of a nat.")
    level_log_ppm = serializers.IntegerField(help_text="With its canary's lower bound.")
    saving_ppm = serializers.IntegerField(help_text="Millionths of the reference price.")


class RoyaltyShareSerializer(serializers.Serializer[Any]):
    """One gain's royalty while it runs."""

    submission = serializers.UUIDField()
    gain = serializers.CharField()
    person = serializers.CharField()
    saving_ppm = serializers.IntegerField()
    share_ppm = serializers.IntegerField(help_text="The person's share of that saving.")
    royalty_ppm = serializers.IntegerField(help_text="Millionths of the reference price that it adds.")
    ends_at = serializers.DateTimeField()


class PriceStepSerializer(serializers.Serializer[Any]):
    """One term of the price: a number, or rows of memory tiers."""

    term = serializers.CharField()
    reference = serializers.JSONField(help_text="Before all gains.")
    in_force = serializers.JSONField()
    proposed = serializers.JSONField()


class ProposedLineSerializer(serializers.Serializer[Any]):
    """One line of a canary, with the arithmetic of its prices."""

    line = serializers.CharField()
    savings = SavingStepSerializer(many=True)
    remaining_ppm = serializers.IntegerField(help_text="What is left of the reference price.")
    royalties = RoyaltyShareSerializer(many=True)
    prices = PriceStepSerializer(many=True)


class DeviceCostSerializer(serializers.Serializer[Any]):
    """What a million output tokens cost by the canary's clock."""

    device_class = serializers.CharField()
    batch = serializers.IntegerField(help_text="Answers at once.")
    token_ns = serializers.IntegerField()
    price_microcredits_per_device_hour = serializers.IntegerField()
    microcredits_per_million_tokens = serializers.IntegerField()


class ProposalSerializer(serializers.Serializer[Any]):
    """The next draft of a model's prices."""

    model = serializers.CharField()
    changes = serializers.BooleanField(help_text="False: it is the price in force.")
    digest = serializers.CharField(help_text="Names this proposal; send it to publish.")
    lines = ProposedLineSerializer(many=True)
    costs = DeviceCostSerializer(many=True)
    effective_at = serializers.DateTimeField(help_text="The earliest, were it published now.")
    falls_again_at = serializers.DateTimeField(allow_null=True, help_text="When the next royalty ends.")


class PublishProposalSerializer(ProposalQuery):
    """The proposal that was shown."""

    digest = serializers.RegexField(r"^[0-9a-f]{64}$")


class PriceProposals(APIView):
    """Proposals of prices."""

    permission_classes = [IsMaintainer]

    @extend_schema(
        operation_id="prices_proposal",
        summary="The next draft by measured savings (maintainers)",
        description="Each line with its deployments, bounds, shares, old and new prices. Publishes nothing.",
        parameters=[ProposalQuery],
        responses={200: ProposalSerializer, **refused(403, 404)},
    )
    def get(self, request: Request) -> Response:
        query = ProposalQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        return Response(ProposalSerializer(propose(now=timezone.now(), **query.validated_data)).data)

    @extend_schema(
        operation_id="prices_proposal_publish",
        summary="Publish a proposal that was shown (maintainers)",
        request=PublishProposalSerializer,
        responses={201: PriceVersionSerializer, **refused(403, 404, 409)},
    )
    def post(self, request: Request) -> Response:
        form = PublishProposalSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        assert isinstance(request.user, User)
        version = publish_proposal(actor=request.user, now=timezone.now(), **form.validated_data)
        return Response(PriceVersionSerializer(version).data, status=201)
