"""REST: people's decisions about a submission."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import caller, validated
from bounty.api.submissions import SubmissionDetailOut, rendered
from bounty.models import ReviewDecision
from bounty.services.awards.lifecycle import reverse
from bounty.services.merges import merge
from bounty.services.reviews import rejudge, review
from bounty.services.series.remeasure import remeasure
from bounty.services.submissions import find_submission, withdraw
from gainshare.accounts.permissions import HasScope, IsMaintainer


class ReviewIn(serializers.Serializer[Any]):
    decision = serializers.ChoiceField(choices=ReviewDecision.choices)
    comment = serializers.CharField(allow_blank=True, default="", max_length=10_000)
    unmeasured_paths = serializers.ListField(
        child=serializers.CharField(max_length=1000),
        default=list,
        max_length=10_000,
        help_text="Files that its pull request changes and nobody measured. An acceptance names each of them.",
    )


class ReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=1000)


class SubmissionWithdraw(APIView):
    """Withdraw your own submission. After its first sample it still counts as an attempt."""

    permission_classes = [HasScope("submit")]

    @extend_schema(request=None, responses=SubmissionDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        return rendered(withdraw(actor=caller(request), submission_id=pk), request)


class SubmissionReview(APIView):
    """Accept or decline a confirmed gain, or decline a suspicious one. You cannot review your own submission."""

    permission_classes = [HasScope("submit")]

    @extend_schema(request=ReviewIn, responses=SubmissionDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        values: dict[str, Any] = validated(ReviewIn, request)
        return rendered(review(actor=caller(request), submission_id=pk, **values), request)


class SubmissionMerge(APIView):
    """Merge a submission (maintainers). The measured candidate becomes the lineage's tip, and the award vests."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=None, responses=SubmissionDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        return rendered(merge(actor=caller(request), submission_id=pk), request)


class SubmissionRemeasure(APIView):
    """Measure again after the lineage's tip has moved. The diff is applied to the current tree and measured there."""

    permission_classes = [HasScope("submit")]

    @extend_schema(request=None, responses=SubmissionDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        return rendered(remeasure(actor=caller(request), submission_id=pk), request)


class SubmissionRejudge(APIView):
    """Order the gate again (maintainers). Possible after a suspicious verdict or an infrastructure error."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=None, responses=SubmissionDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        return rendered(rejudge(actor=caller(request), submission_id=pk), request)


class SubmissionReverse(APIView):
    """Take a vested award back (maintainers). Unspent credits are taken from its lot; the rest becomes a debt."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=ReasonIn, responses=SubmissionDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        reason = validated(ReasonIn, request)["reason"]
        return rendered(
            reverse(actor=caller(request), submission=find_submission(pk), reason=reason), request
        )
