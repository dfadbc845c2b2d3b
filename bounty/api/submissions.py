"""REST: submissions. Decisions about them are in `submission_actions`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.patch.trees import TreeError
from bounty.api.awards import AwardOut
from bounty.api.bounty_names import BountyFilter, BountyName, BountyNumber
from bounty.api.disputes import DisputeOut
from bounty.api.parsing import RawTextField, asked_by, asking, caller, validated
from bounty.api.runs import (
    LOG_OFFSET,
    ChangeOut,
    LogOut,
    QueueOut,
    RunOut,
    VerdictOut,
    offset_of,
    rendered_log,
    sealed_evidence,
    shown_changes,
    verdict_of,
)
from bounty.errors import NotFound
from bounty.models import OPEN_RUN_STATES, AwardRole, NextStep, Review, RunState, Submission, SubmissionState
from bounty.services.access import Person as Asking
from bounty.services.access import require_sight, sees
from bounty.services.awards.lifecycle import standing_award, standing_awards
from bounty.services.course import (
    looks_done,
    shown_history,
    shown_place,
    shown_runs,
    shown_state,
    with_shown_state,
)
from bounty.services.runs.logs import submission_log
from bounty.services.runs.rechecks import CheckOutcome, check_of
from bounty.services.series.sealed_order import order_of
from bounty.services.submissions import find_submission, submit
from bounty.services.trees import blob_store
from bounty.stages import stage
from bounty.visibility import BEING_JUDGED, Part, without_figures
from gainshare.accounts.permissions import HasScope
from gainshare.accounts.queries import ListQuery, OneOf, Person
from gainshare.accounts.schema import refused


class SubmissionIn(serializers.Serializer[Any]):
    bounty = BountyName(help_text="A bounty's number, such as B12, or its id.")
    diff = RawTextField(help_text="The output of `git diff` against base_tree.")
    base_tree = serializers.CharField(
        allow_null=True,
        default=None,
        help_text="The tree that the diff was made against. Refused if the bounty now uses another tree.",
    )


class ReviewOut(serializers.ModelSerializer[Review]):
    reviewer = serializers.CharField(source="reviewer.username")

    class Meta:
        model = Review
        fields = ["reviewer", "decision", "comment", "created_at"]


def shown_verdict(submission: Submission, person: Asking) -> dict[str, Any] | None:
    """The submission's verdict, with the figures of the run behind it as far as the person may see them."""
    if not submission.has_verdict or not sees(person, Part.VERDICT, submission):
        return None
    has_figures = sees(person, Part.FIGURES, submission)
    behind = next((run for run in submission.runs.all() if run.pk == submission.verdict_run_id), None)
    found = verdict_of(behind) if behind is not None and has_figures else None
    reason = submission.verdict_reason
    return {
        "kind": submission.verdict_kind,
        "reason": reason if has_figures else without_figures(reason),
        "log_ppm_estimate": found.log_ppm_estimate if found is not None else None,
        "log_ppm_bound": found.log_ppm_bound if found is not None else None,
        "bound_side": found.bound_side if found is not None else "",
        "pairs": found.pairs if found is not None else 0,
    }


class CheckOut(serializers.Serializer[Any]):
    """A random re-measurement of a confirmed gain."""

    run = serializers.UUIDField(source="run.pk")
    outcome = serializers.ChoiceField(choices=[(outcome.value, outcome.value) for outcome in CheckOutcome])
    doubt = serializers.CharField(help_text="The reason to doubt the gain; empty without one.")


class OrderOut(serializers.Serializer[Any]):
    """The submission's place in the sealed order of its series: ids of other submissions."""

    sealed_earlier = serializers.ListField(
        child=serializers.UUIDField(),
        help_text="Not decided, and booked first; empty once this one is decided.",
    )
    booked_before = serializers.ListField(
        child=serializers.UUIDField(), help_text="Sealed earlier, but not decided when this one was booked."
    )
    booked_after = serializers.ListField(
        child=serializers.UUIDField(),
        help_text="Sealed later, but booked first: this one is priced against their trees.",
    )


class SubmissionOut(serializers.ModelSerializer[Submission]):
    bounty = serializers.UUIDField(source="bounty_id")
    bounty_number = BountyNumber(of="bounty")
    bounty_title = serializers.CharField(source="bounty.title")
    submitter = serializers.CharField(source="submitter.username")
    base_tree = serializers.CharField(source="base_tree_id")
    candidate_tree = serializers.CharField(source="candidate_tree_id", allow_null=True)
    copy_of = serializers.SerializerMethodField(
        help_text="The earlier submission, once this copy is rejected."
    )
    state = serializers.SerializerMethodField(
        help_text='"being_judged" until it is decided, for those who may not see more yet.'
    )
    judged_at = serializers.SerializerMethodField()
    verdict = serializers.SerializerMethodField()

    class Meta:
        model = Submission
        fields = [
            "id",
            "bounty",
            "bounty_number",
            "bounty_title",
            "submitter",
            "base_tree",
            "candidate_tree",
            "patch_digest",
            "copy_of",
            "state",
            "verdict",
            "sealed_at",
            "judged_at",
            "confirmed_at",
            "merged_at",
        ]

    @extend_schema(responses=serializers.ChoiceField(choices=[BEING_JUDGED, *SubmissionState.values]))
    def get_state(self, submission: Submission) -> str:
        return shown_state(submission, asking(self))

    @extend_schema(responses=serializers.DateTimeField(allow_null=True))
    def get_judged_at(self, submission: Submission) -> datetime | None:
        is_shown = sees(asking(self), Part.COURSE, submission)
        return submission.judged_at if is_shown else None

    @extend_schema(responses=OpenApiTypes.UUID)
    def get_copy_of(self, submission: Submission) -> str | None:
        is_told = submission.state == SubmissionState.REJECTED and submission.copy_of_id is not None
        return str(submission.copy_of_id) if is_told else None

    @extend_schema(responses=VerdictOut)
    def get_verdict(self, submission: Submission) -> dict[str, Any] | None:
        return shown_verdict(submission, asking(self))


class SubmissionDetailOut(SubmissionOut):
    stage = serializers.SerializerMethodField(
        help_text='The state, with the measurement in progress: "confirming: guard rails".'
    )
    check = serializers.SerializerMethodField()
    disputes = DisputeOut(many=True)
    is_waiting_for_escrow = serializers.SerializerMethodField()
    award = serializers.SerializerMethodField()
    shares = serializers.SerializerMethodField(
        help_text="Of a bug's fix: the parts of the award. Of a gain: its supplements, after the base it was priced "
        "against proved slow."
    )
    order = serializers.SerializerMethodField()
    queue = serializers.SerializerMethodField()
    looks = serializers.SerializerMethodField(
        help_text="How many of 6, 12, 24 and 48 pairs its runs have reached together: the same for one run and for several."
    )
    runs = serializers.SerializerMethodField(help_text="Shown once the submission is decided.")
    reviews = ReviewOut(many=True)
    changes = serializers.SerializerMethodField()

    class Meta(SubmissionOut.Meta):
        fields = [
            *SubmissionOut.Meta.fields,
            "stage",
            "check",
            "disputes",
            "is_waiting_for_escrow",
            "award",
            "shares",
            "order",
            "queue",
            "looks",
            "runs",
            "reviews",
            "changes",
        ]

    def get_stage(self, submission: Submission) -> str:
        waiting = (RunState.QUEUED, *OPEN_RUN_STATES)
        kinds = [run.kind for run in shown_runs(submission, asking(self)) if run.state in waiting]
        return stage(shown_state(submission, asking(self)), kinds[-1] if kinds else None)

    @extend_schema(responses=CheckOut)
    def get_check(self, submission: Submission) -> dict[str, Any] | None:
        """The random re-measurement, from the moment it is ordered."""
        if not sees(asking(self), Part.FIGURES, submission):
            return None
        award = standing_award(submission)
        check = check_of(award) if award is not None else None
        return dict(CheckOut(check).data) if check is not None else None

    def get_is_waiting_for_escrow(self, submission: Submission) -> bool:
        is_shown = sees(asking(self), Part.COURSE, submission)
        return is_shown and submission.next_step == NextStep.AWAIT_ESCROW

    @extend_schema(responses=AwardOut)
    def get_award(self, submission: Submission) -> dict[str, Any] | None:
        """Once the submission is decided: a reservation's size would tell the gate's estimate."""
        award = standing_award(submission) if sees(asking(self), Part.FIGURES, submission) else None
        return dict(AwardOut(award).data) if award is not None and award.amount_microcredits else None

    @extend_schema(responses=AwardOut(many=True))
    def get_shares(self, submission: Submission) -> list[dict[str, Any]]:
        if not sees(asking(self), Part.FIGURES, submission):
            return []
        booked = standing_awards(submission).exclude(role=AwardRole.GAIN)
        return [dict(AwardOut(award).data) for award in booked]

    @extend_schema(responses=OrderOut)
    def get_order(self, submission: Submission) -> dict[str, Any]:
        return dict(OrderOut(order_of(submission)).data)

    @extend_schema(responses=QueueOut)
    def get_queue(self, submission: Submission) -> dict[str, Any] | None:
        place = shown_place(submission, asking(self))
        return dict(QueueOut(place).data) if place is not None else None

    def get_looks(self, submission: Submission) -> int:
        return looks_done(submission)

    @extend_schema(responses=RunOut(many=True))
    def get_runs(self, submission: Submission) -> list[dict[str, Any]]:
        runs = shown_runs(submission, asking(self))
        return list(RunOut(runs, many=True, context=self.context).data)

    @extend_schema(responses=ChangeOut(many=True))
    def get_changes(self, submission: Submission) -> list[dict[str, Any]]:
        person = asking(self)
        has_reasons = sees(person, Part.FIGURES, submission)
        return shown_changes(shown_history(submission, person), has_reasons=has_reasons)


def rendered(submission: Submission, request: Request, status: int = 200) -> Response:
    """The detail of a submission, read again, as the request's user may see it."""
    detail = SubmissionDetailOut(find_submission(submission.pk), context={"request": request})
    return Response(detail.data, status=status)


class SubmissionQuery(ListQuery):
    lookups = {"submitter": "submitter__username", "state": "shown_state"}

    bounty = BountyFilter()
    state = OneOf(
        [BEING_JUDGED, *SubmissionState.values], help_text="The state as the caller sees it in the list."
    )
    submitter = Person(help_text='A user name, or "me".')


class SubmissionList(generics.ListAPIView[Submission]):
    """All submissions, the newest first."""

    queryset = Submission.objects.select_related("bounty", "submitter").prefetch_related(
        "runs__verdict", "disputes"
    )
    serializer_class = SubmissionOut
    query_class = SubmissionQuery

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "POST" else [HasScope("submit")()]

    def get_queryset(self) -> QuerySet[Submission]:
        return with_shown_state(super().get_queryset(), asked_by(self.request))

    @extend_schema(request=SubmissionIn, responses={201: SubmissionDetailOut, **refused(404, 429)})
    def post(self, request: Request) -> Response:
        """Submit a diff to be judged."""
        values = validated(SubmissionIn, request)
        submission = submit(
            actor=caller(request),
            bounty_id=values["bounty"],
            diff=values["diff"],
            base_tree=values["base_tree"],
        )
        return rendered(submission, request, 201)


class SubmissionDetail(APIView):
    """One submission. State, verdict, award, runs, reviews, and every change with its reason."""

    permission_classes = [AllowAny]

    @extend_schema(responses=SubmissionDetailOut)
    def get(self, request: Request, pk: UUID) -> Response:
        return rendered(find_submission(pk), request)


class SubmissionDiff(APIView):
    """The diff of a submission, as it was submitted."""

    permission_classes = [AllowAny]

    @extend_schema(responses={(200, "text/x-diff"): OpenApiTypes.STR, **refused(403)})
    def get(self, request: Request, pk: UUID) -> HttpResponse:
        submission = find_submission(pk)
        require_sight(asked_by(request), Part.SOURCE, submission)
        try:
            data = blob_store().get(submission.diff_blob)
        except TreeError:
            raise NotFound("This diff was too large to be stored.") from None
        return HttpResponse(data, content_type="text/x-diff; charset=utf-8")


class SubmissionLog(APIView):
    """The log of all runs of a submission from a given character. Poll it to follow them."""

    permission_classes = [AllowAny]

    @extend_schema(parameters=[LOG_OFFSET], responses={200: LogOut, **refused(403)})
    def get(self, request: Request, pk: UUID) -> Response:
        submission, person = find_submission(pk), asked_by(request)
        require_sight(person, Part.SOURCE, submission)
        with_sealed = sees(person, Part.FIGURES, submission)
        page = submission_log(submission=submission, offset=offset_of(request), with_sealed=with_sealed)
        return rendered_log(page)


class SubmissionEvidence(APIView):
    """The sealed evidence of a submission's verdict. Each run's own evidence is under runs/."""

    permission_classes = [AllowAny]

    @extend_schema(responses={(200, "application/json"): OpenApiTypes.OBJECT, **refused(403)})
    def get(self, request: Request, pk: UUID) -> HttpResponse:
        submission = find_submission(pk)
        require_sight(asked_by(request), Part.FIGURES, submission)
        if submission.verdict_run is None:
            raise NotFound("This submission has no evidence (yet).")
        return sealed_evidence(submission.verdict_run)
