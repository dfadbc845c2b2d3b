"""REST: trees and lineages."""

import io
import tarfile
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import RawTextField, StatedReason, asked_by, caller, validated
from bounty.limits import TREES_PER_HOUR
from bounty.models import Lineage, StoredTree, TipCheck
from bounty.services.access import require_tree_sight
from bounty.services.releases import release_stop
from bounty.services.renewal import renew_lineages
from bounty.services.series.base_stops import stop_evidence
from bounty.services.series.tip_checks import newest_checks
from bounty.services.transitions import history
from bounty.services.trees import (
    blob_store,
    create_lineage,
    create_tree,
    find_tree,
    has_present_layout,
    load_tree,
)
from gainshare.accounts.permissions import HasScope, IsMaintainer
from gainshare.accounts.rate_limits import Rate, take
from gainshare.accounts.schema import refused


class TreeIn(serializers.Serializer[Any]):
    base = serializers.CharField(default="shipped", help_text='A tree\'s hash, or "shipped".')
    diff = RawTextField(default="", help_text="A unified diff against that tree. Empty for the tree itself.")


class TreeOut(serializers.ModelSerializer[StoredTree]):
    parent_tree = serializers.CharField(source="parent_id", allow_null=True)

    class Meta:
        model = StoredTree
        fields = ["hash", "parent_tree", "manifest", "created_at"]


class TreeMade(serializers.Serializer[Any]):
    hash = serializers.CharField()


class LineageIn(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=60)
    base_tree = serializers.CharField(default="shipped")
    is_demo = serializers.BooleanField(default=False)


class LineageStopOut(serializers.Serializer[Any]):
    """A stop of either kind: `BaseStop` or `RepositoryStop`."""

    tree = serializers.CharField(source="tree_id", help_text="The base that fails, or the tip that was lost.")
    reason = serializers.CharField()
    evidence_digest = serializers.CharField(
        default="", help_text="Of what showed that the base fails; empty where a push lost the tip."
    )
    stopped_at = serializers.DateTimeField()
    released_at = serializers.DateTimeField(allow_null=True)
    released_by = serializers.CharField(source="released_by.username", allow_null=True, default=None)
    release_reason = serializers.CharField()


class LineageOut(serializers.ModelSerializer[Lineage]):
    origin = serializers.CharField(source="origin_id")
    tip = serializers.CharField(source="tip_id")
    is_outdated = serializers.SerializerMethodField(
        help_text="True when the tip has an older layout. Nothing is judged in the lineage until it is renewed."
    )
    stop_reason = serializers.CharField(
        help_text="Why nothing is measured or taken, where the base tree fails on its own; else empty."
    )

    merge_stop_reason = serializers.CharField(
        help_text="Why nothing is merged, where a push to the lineage's repository lost the tip; else empty."
    )

    class Meta:
        model = Lineage
        fields = [
            "name", "is_demo", "origin", "tip", "is_outdated", "stop_reason", "merge_stop_reason", "created_at",
        ]  # fmt: skip

    def get_is_outdated(self, lineage: Lineage) -> bool:
        return not has_present_layout(lineage.tip_id)


class LineageMove(serializers.Serializer[Any]):
    old = serializers.CharField()
    new = serializers.CharField()
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()


class TipCheckOut(serializers.ModelSerializer[TipCheck]):
    submission = serializers.UUIDField(
        source="award.submission_id", help_text="The merged gain that was checked."
    )
    suite = serializers.CharField(source="award.submission.bounty.suite")
    hardware = serializers.CharField(source="award.submission.bounty.hardware")
    run = serializers.UUIDField(source="run_id")
    paid_log_ppm = serializers.IntegerField(source="award.log_ppm_bound", help_text="What was paid for it.")
    log_ppm_estimate = serializers.SerializerMethodField(
        help_text="ln(time of the tree before it / its time) in millionths of a nat, by this check."
    )
    is_repetition = serializers.SerializerMethodField(
        help_text="Whether it repeats a finding. Only where it agrees do merges stop."
    )

    class Meta:
        model = TipCheck
        fields = [
            "submission",
            "suite",
            "hardware",
            "run",
            "outcome",
            "paid_log_ppm",
            "log_ppm_estimate",
            "is_repetition",
            "created_at",
            "ended_at",
        ]

    def get_log_ppm_estimate(self, check: TipCheck) -> int | None:
        verdict = getattr(check.run, "verdict", None)
        return None if verdict is None else verdict.log_ppm_estimate

    def get_is_repetition(self, check: TipCheck) -> bool:
        return check.repeats_id is not None


class LineageWithMoves(LineageOut):
    moves = serializers.SerializerMethodField()
    checks = serializers.SerializerMethodField(help_text="The newest check of each merged gain.")

    class Meta(LineageOut.Meta):
        fields = [*LineageOut.Meta.fields, "moves", "checks"]

    @extend_schema(responses=TipCheckOut(many=True))
    def get_checks(self, lineage: Lineage) -> list[dict[str, Any]]:
        """The newest check of each merged gain."""
        return [dict(TipCheckOut(check).data) for check in newest_checks(lineage)]

    @extend_schema(responses=LineageMove(many=True))
    def get_moves(self, lineage: Lineage) -> list[dict[str, Any]]:
        return [dict(LineageMove(change).data) for change in history(lineage)]


class TreeList(APIView):
    """Make a tree from another one and a diff."""

    permission_classes = [HasScope("submit")]

    @extend_schema(request=TreeIn, responses={201: TreeMade, **refused(403, 404, 429)})
    def post(self, request: Request) -> Response:
        values, actor = validated(TreeIn, request), caller(request)
        if not actor.is_maintainer:
            take(what="new trees from this account", who=str(actor.pk), rate=Rate(TREES_PER_HOUR))
        tree = create_tree(actor=actor, **values)
        return Response({"hash": tree.hash}, status=201)


class TreeDetail(APIView):
    """A tree's manifest. "shipped" names the installed stack's tree."""

    permission_classes = [AllowAny]

    @extend_schema(responses={200: TreeOut, **refused(403)})
    def get(self, request: Request, hash: str) -> Response:  # noqa: A002 - the URL's own name
        stored = find_tree(hash)
        require_tree_sight(asked_by(request), stored.pk)
        return Response(TreeOut(stored).data)


class TreeArchive(APIView):
    """A tree's files as an uncompressed tar archive."""

    permission_classes = [AllowAny]

    @extend_schema(responses={(200, "application/x-tar"): OpenApiTypes.BINARY, **refused(403)})
    def get(self, request: Request, hash: str) -> HttpResponse:  # noqa: A002
        stored = find_tree(hash)
        require_tree_sight(asked_by(request), stored.pk)
        store, buffer = blob_store(), io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for entry in load_tree(stored).entries:
                data = store.get(entry.blob)
                member = tarfile.TarInfo(entry.path)
                member.size, member.mode = len(data), entry.mode
                archive.addfile(member, io.BytesIO(data))
        response = HttpResponse(buffer.getvalue(), content_type="application/x-tar")
        response["Content-Disposition"] = f'attachment; filename="{stored.hash[:12]}.tar"'
        return response


class LineageList(generics.ListAPIView[Lineage]):
    """All lineages. They are lines of trees that grow by merges."""

    queryset = Lineage.objects.all()
    serializer_class = LineageOut

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "POST" else [IsMaintainer()]

    @extend_schema(request=LineageIn, responses={201: LineageOut, **refused(404)})
    def post(self, request: Request) -> Response:
        """Start a lineage at a tree (maintainers)."""
        lineage = create_lineage(actor=caller(request), **validated(LineageIn, request))
        return Response(LineageOut(lineage).data, status=201)


class LineageDetail(generics.RetrieveAPIView[Lineage]):
    """One lineage with every move of its tip."""

    queryset = Lineage.objects.all()
    serializer_class = LineageWithMoves
    permission_classes = [AllowAny]
    lookup_field = "name"


class LineageRelease(APIView):
    """Release a lineage that a failed base or a lost tip stopped (maintainers).

    After a failed base, runs that waited are queued again without counting an attempt. If the tree still fails, the
    lineage stops again. After a lost tip, the branch is followed as it was last seen.
    """

    permission_classes = [IsMaintainer]

    @extend_schema(request=StatedReason, responses={200: LineageStopOut, **refused(404, 409)})
    def post(self, request: Request, name: str) -> Response:
        stop = release_stop(actor=caller(request), name=name, **validated(StatedReason, request))
        return Response(LineageStopOut(stop).data)


class LineageStopShown(serializers.Serializer[Any]):
    digest = serializers.CharField(help_text="Of the whole evidence, which stays sealed while its run waits.")
    events = serializers.ListField(child=serializers.DictField())
    base_checks = serializers.ListField(child=serializers.DictField())


class LineageStop(APIView):
    """What showed that a lineage's base tree fails (maintainers). Events, and attempts without a patch."""

    permission_classes = [IsMaintainer]

    @extend_schema(responses={200: LineageStopShown, **refused(404)})
    def get(self, request: Request, name: str) -> Response:
        return Response(LineageStopShown(stop_evidence(name)).data)


class LineageRenewalOut(serializers.Serializer[Any]):
    lineage = serializers.CharField()
    old_tip = serializers.CharField()
    tip = serializers.CharField(help_text="Equal to the old tip if only submissions had to end.")
    ended = serializers.ListField(
        child=serializers.UUIDField(), help_text="Submissions that ended; they do not count as attempts."
    )
    kept = serializers.ListField(
        child=serializers.UUIDField(),
        help_text="Submissions whose run was cancelled and whose award is unchanged.",
    )
    reproductions = serializers.ListField(
        child=serializers.UUIDField(),
        help_text="Reproductions that could not be run; they do not count as attempts.",
    )


class RenewalOut(serializers.Serializer[Any]):
    shipped_tree = serializers.CharField()
    cancelled_calibrations = serializers.IntegerField()
    lineages = LineageRenewalOut(many=True, help_text="Lineages that were changed; none when repeated.")


class LineageRenew(APIView):
    """Begin lineages of an older layout again at the shipped tree (maintainers).

    Open submissions on older trees end without counting as an attempt, and their reservations return to
    escrow. Booked awards are unchanged. Repeating changes nothing.
    """

    permission_classes = [IsMaintainer]

    @extend_schema(request=None, responses={200: RenewalOut, **refused(400, 413, 415)})
    def post(self, request: Request) -> Response:
        validated(serializers.Serializer, request)  # it takes no fields, and no other body
        return Response(RenewalOut(renew_lineages(actor=caller(request))).data)
