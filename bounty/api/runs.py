"""REST: runs, their logs and their evidence. A run's figures are hidden until it has its verdict."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import StatedReason, asked_by, asking, caller, validated
from bounty.errors import BadRequest, NotFound
from bounty.models import Run, RunKind, RunState, RunVerdict, StateChange, Submission
from bounty.services.access import require_sight, sees_run
from bounty.services.course import hidden_course
from bounty.services.runs.guard_rails import rails_of
from bounty.services.runs.lifecycle import find_run, order_aa_run
from bounty.services.runs.logs import LogPage, read_log
from bounty.services.runs.maintenance import cancel_run, rerun
from bounty.services.runs.queues import queue_place
from bounty.services.transitions import history
from bounty.services.trees import blob_store
from bounty.visibility import Part
from gainshare.accounts.permissions import IsMaintainer
from gainshare.accounts.queries import ListQuery, OneOf
from gainshare.accounts.schema import refused


class VerdictOut(serializers.Serializer[Any]):
    kind = serializers.CharField()
    reason = serializers.CharField()
    log_ppm_estimate = serializers.IntegerField(allow_null=True, help_text="ln(base/candidate), millionths.")
    log_ppm_bound = serializers.IntegerField(
        allow_null=True, help_text="One-sided bound of the estimate; bound_side says which side."
    )
    bound_side = serializers.CharField(
        help_text='"lower"; "upper" for a regression of a gate or an A/A run; empty without a bound.'
    )
    pairs = serializers.IntegerField()


class ChangeOut(serializers.Serializer[Any]):
    old = serializers.CharField()
    new = serializers.CharField()
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()


class QueueOut(serializers.Serializer[Any]):
    """Place of an unfinished run in the queue. Estimates are medians of earlier similar runs, null without any."""

    position = serializers.IntegerField(
        allow_null=True, help_text="Runs before this one: 0 is next, null while it runs."
    )
    runners = serializers.IntegerField(help_text="Runners that may take it.")
    starts_in_s = serializers.IntegerField(allow_null=True)
    ends_in_s = serializers.IntegerField(
        allow_null=True, help_text="Also null when it takes longer than similar runs usually do."
    )
    waiting_for_device = serializers.IntegerField(
        help_text="Number of these runners that wait for their device because other work on the machine uses it."
    )


class SampleOut(serializers.Serializer[Any]):
    index = serializers.IntegerField()
    control = serializers.BooleanField(help_text="True for a pair that runs base on both sides.")
    case = serializers.CharField()
    log_ratio_ppb = serializers.IntegerField(help_text="ln(base/candidate) of the pair, billionths.")


class EvidenceOut(serializers.Serializer[Any]):
    digest = serializers.CharField()
    key_id = serializers.CharField()
    sandbox_level = serializers.CharField()
    is_award_eligible = serializers.BooleanField()
    size_bytes = serializers.IntegerField()


def verdict_of(run: Run) -> RunVerdict | None:
    return getattr(run, "verdict", None)


class RunOut(serializers.ModelSerializer[Run]):
    """A run in a list: progress, and the verdict when there is one."""

    submission = serializers.UUIDField(source="submission_id", allow_null=True)
    base_tree = serializers.CharField(source="base_tree_id")
    candidate_tree = serializers.CharField(source="candidate_tree_id")
    reproduction = serializers.UUIDField(source="reproduction_id", allow_null=True)
    runner = serializers.CharField(source="runner.name", allow_null=True, default=None)
    verdict = serializers.SerializerMethodField()

    class Meta:
        model = Run
        fields = [
            "id",
            "submission",
            "reproduction",
            "kind",
            "sequence",
            "suite",
            "preset",
            "hardware",
            "base_tree",
            "candidate_tree",
            "state",
            "attempt",
            "pairs_done",
            "pairs_max",
            "runner",
            "verdict",
            "queued_at",
            "leased_at",
            "finished_at",
        ]

    @extend_schema(responses=VerdictOut)
    def get_verdict(self, run: Run) -> dict[str, Any] | None:
        verdict = self.seen_verdict(run)
        return dict(VerdictOut(verdict).data) if verdict is not None else None

    def seen_verdict(self, run: Run) -> RunVerdict | None:
        """The run's verdict, if it has one that the reader may see."""
        verdict = verdict_of(run)
        return verdict if verdict is not None and sees_run(asking(self), run) else None


class TrialOut(serializers.Serializer[Any]):
    """One step of an attempt to reproduce a bug, as recorded in the evidence."""

    step = serializers.CharField(help_text="read, observe or check.")
    side = serializers.CharField(help_text="base, candidate, or none: without a tree.")
    attempt = serializers.IntegerField()
    outcome = serializers.CharField()
    detail = serializers.CharField()


class RailOut(serializers.Serializer[Any]):
    """One guard rail of a guard run. Effects are ln(base/candidate) in millionths."""

    name = serializers.CharField()
    suite = serializers.CharField(help_text="Empty for a rail over all suites.")
    margin_log_ppm = serializers.IntegerField(help_text="Largest allowed loss, below zero.")
    log_ppm_estimate = serializers.IntegerField(allow_null=True)
    log_ppm_bound = serializers.IntegerField(allow_null=True, help_text="One-sided lower bound.")
    pairs = serializers.IntegerField()
    result = serializers.CharField(help_text="holds, violated, undecided or not_needed.")


class RunDetailOut(RunOut):
    rails = serializers.SerializerMethodField(help_text="Only of a guard run that has its verdict.")
    trials = serializers.SerializerMethodField(help_text="Only of a bug's runs.")
    queue = serializers.SerializerMethodField()
    commitment = serializers.CharField()
    evidence = serializers.SerializerMethodField()
    samples = serializers.SerializerMethodField()
    changes = serializers.SerializerMethodField()

    class Meta(RunOut.Meta):
        fields = [
            *RunOut.Meta.fields,
            "queue",
            "commitment",
            "evidence",
            "samples",
            "rails",
            "trials",
            "changes",
        ]

    @extend_schema(responses=QueueOut)
    def get_queue(self, run: Run) -> dict[str, Any] | None:
        place = queue_place(run)
        return dict(QueueOut(place).data) if place is not None else None

    @extend_schema(responses=EvidenceOut)
    def get_evidence(self, run: Run) -> dict[str, Any] | None:
        verdict = self.seen_verdict(run)
        if verdict is None or verdict.evidence is None:
            return None
        return dict(EvidenceOut(verdict.evidence).data)

    @extend_schema(responses=SampleOut(many=True))
    def get_samples(self, run: Run) -> list[dict[str, Any]]:
        verdict = self.seen_verdict(run)
        return list(verdict.evidence.samples) if verdict is not None and verdict.evidence is not None else []

    @extend_schema(responses=RailOut(many=True))
    def get_rails(self, run: Run) -> list[dict[str, Any]]:
        verdict = self.seen_verdict(run)
        if verdict is None or verdict.evidence is None:
            return []
        return [dict(RailOut(rail).data) for rail in rails_of(verdict.evidence)]

    @extend_schema(responses=TrialOut(many=True))
    def get_trials(self, run: Run) -> list[dict[str, Any]]:
        verdict = self.seen_verdict(run)
        return list(verdict.evidence.trials) if verdict is not None and verdict.evidence is not None else []

    @extend_schema(responses=ChangeOut(many=True))
    def get_changes(self, run: Run) -> list[dict[str, Any]]:
        return shown_changes(history(run), has_reasons=sees_run(asking(self), run))


class LogOut(serializers.Serializer[Any]):
    offset = serializers.IntegerField()
    next_offset = serializers.IntegerField(help_text="Offset for the next request.")
    text = serializers.CharField()
    is_final = serializers.BooleanField(help_text="True when the log is complete.")


class AaIn(serializers.Serializer[Any]):
    suite = serializers.CharField()
    preset = serializers.CharField(default="standard")
    hardware = serializers.SlugField(default="cpu")
    tree = serializers.CharField(default="shipped")


LOG_OFFSET = OpenApiParameter("offset", int, description="First character to return; 0 by default.")


def offset_of(request: Request) -> int:
    """The query's ``offset``; raises BadRequest unless it is a non-negative whole number."""
    raw = request.query_params.get("offset", "0")
    if not raw.isascii() or not raw.isdigit() or len(raw) > 10:
        raise BadRequest("offset must be a non-negative whole number.")
    return int(raw)


def rendered_log(page: LogPage) -> Response:
    return Response(LogOut(page).data)


def shown_changes(changes: list[StateChange], *, has_reasons: bool) -> list[dict[str, Any]]:
    """A history; without its reasons where those would tell what was found."""
    rows = [dict(ChangeOut(change).data) for change in changes]
    return rows if has_reasons else [row | {"reason": ""} for row in rows]


def sealed_evidence(run: Run) -> HttpResponse:
    """The bytes of a run's sealed evidence. Raises NotFound until the run has its verdict."""
    verdict = verdict_of(run)
    if verdict is None or verdict.evidence is None:
        raise NotFound("This run has no evidence, or not yet. Evidence is stored together with the verdict.")
    response = HttpResponse(blob_store().get(verdict.evidence.blob), content_type="application/json")
    response["Content-Disposition"] = f'attachment; filename="{run.pk}.json"'
    return response


class RunQuery(ListQuery):
    state = OneOf(RunState.values, help_text="The run's state.")
    kind = OneOf(RunKind.values, help_text="The run's kind.")


class RunList(generics.ListAPIView[Run]):
    """All runs, the newest first. Those of a submission that is being judged come once it is decided."""

    queryset = (
        Run.objects.select_related("runner", "verdict", "submission__bounty")
        .prefetch_related("submission__disputes")
        .order_by("-queued_at")
    )
    serializer_class = RunOut
    query_class = RunQuery

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "POST" else [IsMaintainer()]

    def get_queryset(self) -> QuerySet[Run]:
        hidden = Submission.objects.filter(hidden_course(asked_by(self.request)))
        return super().get_queryset().exclude(submission__in=hidden)

    @extend_schema(request=AaIn, responses={201: RunDetailOut, **refused(404)})
    def post(self, request: Request) -> Response:
        """Order an A/A run (maintainers). It measures a tree against itself to show the machine's noise."""
        run = order_aa_run(actor=caller(request), **validated(AaIn, request))
        return Response(RunDetailOut(run, context={"request": request}).data, status=201)


class RunDetail(APIView):
    """One run. Its samples are included when it has its verdict."""

    permission_classes = [AllowAny]

    @extend_schema(responses={200: RunDetailOut, **refused(403)})
    def get(self, request: Request, pk: UUID) -> Response:
        run = find_run(pk)
        if run.submission is not None:
            require_sight(asked_by(request), Part.COURSE, run.submission)
        return Response(RunDetailOut(run, context={"request": request}).data)


class RunCancel(APIView):
    """Cancel a waiting or running run (maintainers). It does not count as its author's attempt."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=StatedReason, responses=RunDetailOut)
    def post(self, request: Request, pk: UUID) -> Response:
        run = cancel_run(actor=caller(request), run_id=pk, **validated(StatedReason, request))
        return Response(RunDetailOut(run, context={"request": request}).data)


class RunRerun(APIView):
    """Order a failed or doubted run again (maintainers). Returns the new run; the old verdict stays."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=StatedReason, responses={201: RunDetailOut})
    def post(self, request: Request, pk: UUID) -> Response:
        run = rerun(actor=caller(request), run_id=pk, **validated(StatedReason, request))
        return Response(RunDetailOut(run, context={"request": request}).data, status=201)


class RunLog(APIView):
    """A run's log from a given character. Poll it to follow a run."""

    permission_classes = [AllowAny]

    @extend_schema(parameters=[LOG_OFFSET], responses={200: LogOut, **refused(403)})
    def get(self, request: Request, pk: UUID) -> Response:
        run, person = find_run(pk), asked_by(request)
        if run.submission is not None:
            require_sight(person, Part.SOURCE, run.submission)
        page = read_log(
            runs=Run.objects.filter(pk=run.pk),
            offset=offset_of(request),
            with_sealed=sees_run(person, run),
        )
        return rendered_log(page)


class RunEvidence(APIView):
    """The sealed evidence of a run. Verify it offline with `gainshare verify`."""

    permission_classes = [AllowAny]

    @extend_schema(responses={(200, "application/json"): OpenApiTypes.OBJECT, **refused(403)})
    def get(self, request: Request, pk: UUID) -> HttpResponse:
        run = find_run(pk)
        if run.submission is not None:
            require_sight(asked_by(request), Part.FIGURES, run.submission)
        return sealed_evidence(run)
