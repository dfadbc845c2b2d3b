"""REST for runners, under /api/v1/runner/: lease, trees, progress, log, commitment, evidence.

A runner authenticates with `Authorization: Bearer gsr_…`. Every call about a run carries the run's lease. If another
runner has the lease now, the answer is 409 `lease_lost` and the runner stops. Every call may be repeated. A request
with a body is authenticated before the body is read (`bounty.runner_door`).
"""

import re
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.patch.trees import TreeError
from bounty.api.parsing import LargeJSONParser, RawTextField, validated
from bounty.errors import NotFound
from bounty.models import Run, Runner, StoredTree
from bounty.runner_door import runner_token, unknown_token
from bounty.services.runners.calls import commit, heartbeat, lease_run, report_failure
from bounty.services.runners.device_waits import note_device_wait
from bounty.services.runners.lending import borrows, give_back
from bounty.services.runners.registration import authenticate_runner
from bounty.services.runs.logs import append_log
from bounty.services.runs.pooling import continued_records, post_pair
from bounty.services.runs.verdicts import record_evidence
from bounty.services.trees import blob_store
from gainshare.accounts.schema import refused


class RunnerTokenAuthentication(BaseAuthentication):
    """Authentication by runner token: sets ``request.auth`` and ``request.user`` to the :class:`Runner`."""

    def authenticate(self, request: Request) -> tuple[Runner, Runner] | None:
        token = runner_token(get_authorization_header(request))
        if token is None:
            return None
        runner = authenticate_runner(token)
        if runner is None:
            raise unknown_token()
        return runner, runner

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class RunnerTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the base registers itself untyped
    target_class = RunnerTokenAuthentication
    name = "runnerToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "gsr_…"}


class IsRunner(BasePermission):
    message = "Only a registered runner may do this, with its token."

    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.auth, Runner)


class RunnerView(APIView):
    authentication_classes = [RunnerTokenAuthentication]
    permission_classes = [IsRunner]


def calling_runner(request: Request) -> Runner:
    assert isinstance(request.auth, Runner)
    return request.auth


class LeaseIn(serializers.Serializer[Any]):
    run_id = serializers.UUIDField()
    fingerprint = serializers.DictField(
        help_text="The machine's present fingerprint, as `python -m benchmarks.runner.fingerprint` prints it."
    )


class JobOut(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.CharField(source="judged_as")
    suite = serializers.CharField()
    preset = serializers.CharField()
    base_tree = serializers.CharField(source="base_tree_id")
    candidate_tree = serializers.CharField(source="candidate_tree_id")
    reproduction = serializers.CharField(
        source="reproduction.blob",
        default="",
        help_text="Only for a bug's runs: hash of the reproduction's blob.",
    )
    old_tree = serializers.CharField(
        source="old.tree",
        default="",
        help_text="Only for a confirmation in a series that has an award: the tree that this award was priced against.",
    )
    old_paid_log_ppm = serializers.IntegerField(
        source="old.paid_log_ppm",
        default=0,
        help_text="Bound that was paid for the base, in millionths of a nat; 0 without an old tree.",
    )
    earlier_confirmations = serializers.DictField(
        allow_null=True,
        help_text="Only for a confirmation: `count` of the person's other candidates that had one against this base, and "
        "`lowest_log_ppm`, their lowest bound (null where one had none). Null without any.",
    )
    nonce = serializers.CharField()
    attempt = serializers.IntegerField()


class LeaseOut(serializers.Serializer[Any]):
    run = JobOut()
    lease = serializers.UUIDField()
    lease_s = serializers.IntegerField()
    is_lent = serializers.BooleanField(
        help_text="The runner has its device on loan: it asks every few seconds whether to stop, and gives the device back "
        "after the run."
    )
    trees = serializers.DictField(help_text="Manifests by tree hash.")
    continues = serializers.ListField(
        child=serializers.DictField(),
        help_text="Signed records of earlier pairs of this candidate, from which the run continues.",
    )


class HeartbeatIn(serializers.Serializer[Any]):
    lease = serializers.UUIDField()
    stage = serializers.CharField()
    pairs_done = serializers.IntegerField(default=0)
    pairs_max = serializers.IntegerField(default=0)


class HeartbeatOut(serializers.Serializer[Any]):
    cancel = serializers.BooleanField(help_text="Stop at once.")
    lease_expires_at = serializers.DateTimeField()
    give_back_s = serializers.FloatField(
        allow_null=True,
        help_text="The device is recalled: stop between two pairs, and give it back within so many seconds. Null: measure "
        "on.",
    )


class CommitmentIn(serializers.Serializer[Any]):
    lease = serializers.UUIDField()
    commitment = serializers.CharField()


class LogIn(serializers.Serializer[Any]):
    lease = serializers.UUIDField()
    offset = serializers.IntegerField(
        min_value=0, help_text="Number of characters already sent under this lease."
    )
    text = RawTextField()


class LogAnswer(serializers.Serializer[Any]):
    next_offset = serializers.IntegerField()


class PairIn(serializers.Serializer[Any]):
    lease = serializers.UUIDField()
    pair = serializers.JSONField(help_text="The signed record of one complete pair.")


class EvidenceIn(serializers.Serializer[Any]):
    lease = serializers.UUIDField()
    evidence = serializers.JSONField()


class RecordedOut(serializers.Serializer[Any]):
    kind = serializers.CharField()
    reason = serializers.CharField()
    log_ppm_estimate = serializers.IntegerField(allow_null=True)
    log_ppm_bound = serializers.IntegerField(allow_null=True)
    pairs = serializers.IntegerField()


class FailureIn(serializers.Serializer[Any]):
    lease = serializers.UUIDField()
    code = serializers.CharField(max_length=60)
    detail = serializers.CharField(allow_blank=True, default="", max_length=10_000)


class MeOut(serializers.ModelSerializer[Runner]):
    class Meta:
        model = Runner
        fields = ["id", "name", "hardware", "key_id", "state", "fingerprint", "created_at"]


class Lease(RunnerView):
    """Lease the next run. `run_id` only says which wake-up is being answered. 409 when no run waits."""

    @extend_schema(request=LeaseIn, responses=LeaseOut)
    def post(self, request: Request) -> Response:
        run = lease_run(runner=calling_runner(request), **validated(LeaseIn, request))
        return Response(_bundle(run))


def _bundle(run: Run) -> dict[str, Any]:
    return {
        "run": JobOut(run).data,
        "lease": str(run.lease),
        "lease_s": settings.RUN_LEASE_S,
        "is_lent": run.runner is not None and borrows(run.runner),
        "continues": continued_records(run),
        "trees": {tree.hash: tree.manifest for tree in trees_of(run)},
    }


def trees_of(run: Run) -> list[StoredTree]:
    """The trees that the run measures."""
    trees = [run.base_tree, run.candidate_tree]
    if run.old is not None:
        trees.append(StoredTree.objects.get(pk=run.old["tree"]))
    return trees


class WaitingIn(serializers.Serializer[Any]):
    """An empty body."""


class Waiting(RunnerView):
    """Report that other work uses the device.

    The runner repeats this until the device is free, and asks for no run meanwhile.
    """

    @extend_schema(request=None, responses={204: None, **refused(400, 413, 415)})
    def post(self, request: Request) -> Response:
        validated(WaitingIn, request)
        note_device_wait(runner=calling_runner(request))
        return Response(status=204)


class GiveBack(RunnerView):
    """Give the device back that the runner has on loan, after it stopped.

    A run that it still had is queued again, and keeps its pairs. Without a loan nothing changes.
    """

    @extend_schema(request=None, responses={204: None, **refused(400, 413, 415)})
    def post(self, request: Request) -> Response:
        validated(WaitingIn, request)
        give_back(runner=calling_runner(request))
        return Response(status=204)


class Blob(RunnerView):
    """The bytes of one file of a tree, or of a reproduction."""

    @extend_schema(responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    def get(self, request: Request, sha256: str) -> HttpResponse:
        try:
            if not re.fullmatch(r"[0-9a-f]{64}", sha256):
                raise NotFound("A blob's name has 64 hex digits.")
            data = blob_store().get(sha256)
        except TreeError as error:
            raise NotFound(error.message) from None
        return HttpResponse(data, content_type="application/octet-stream")


class RunHeartbeat(RunnerView):
    """Renew the lease and report progress."""

    @extend_schema(request=HeartbeatIn, responses=HeartbeatOut)
    def post(self, request: Request, pk: UUID) -> Response:
        values = validated(HeartbeatIn, request)
        return Response(HeartbeatOut(heartbeat(runner=calling_runner(request), run_id=pk, **values)).data)


class RunCommitment(RunnerView):
    """Record the commitment to an attempt's secrets, before the first sample."""

    @extend_schema(request=CommitmentIn, responses={204: None})
    def post(self, request: Request, pk: UUID) -> Response:
        commit(runner=calling_runner(request), run_id=pk, **validated(CommitmentIn, request))
        return Response(status=204)


class RunPair(RunnerView):
    """Keep the signed record of a complete pair, before the next one begins. The same record again changes nothing."""

    @extend_schema(request=PairIn, responses={204: None, **refused(422)})
    def post(self, request: Request, pk: UUID) -> Response:
        values = validated(PairIn, request)
        post_pair(runner=calling_runner(request), run_id=pk, lease=values["lease"], sealed=values["pair"])
        return Response(status=204)


class RunLogAppend(RunnerView):
    """Append to a run's log. Repeated text is written once; a gap is refused with 409 and the right offset."""

    @extend_schema(request=LogIn, responses=LogAnswer)
    def post(self, request: Request, pk: UUID) -> Response:
        values = validated(LogIn, request)
        next_offset = append_log(run_id=pk, runner_id=calling_runner(request).pk, **values)
        return Response({"next_offset": next_offset})


class RunEvidenceRecord(RunnerView):
    """Record the sealed evidence of a run and its verdict, once. The same document again gets the same answer."""

    parser_classes = [LargeJSONParser]

    @extend_schema(request=EvidenceIn, responses={200: RecordedOut, **refused(422)})
    def post(self, request: Request, pk: UUID) -> Response:
        values = validated(EvidenceIn, request)
        verdict = record_evidence(
            runner=calling_runner(request), run_id=pk, lease=values["lease"], sealed=values["evidence"]
        )
        return Response(RecordedOut(verdict).data)


class RunFailed(RunnerView):
    """Report that the runner failed, not the candidate. The run is queued again, at most twice."""

    @extend_schema(request=FailureIn, responses={204: None})
    def post(self, request: Request, pk: UUID) -> Response:
        report_failure(runner=calling_runner(request), run_id=pk, **validated(FailureIn, request))
        return Response(status=204)


class Me(RunnerView):
    """The calling runner."""

    @extend_schema(responses=MeOut)
    def get(self, request: Request) -> Response:
        return Response(MeOut(calling_runner(request)).data)


urlpatterns = [
    path("lease/", Lease.as_view()),
    path("waiting/", Waiting.as_view()),
    path("give-back/", GiveBack.as_view()),
    path("blobs/<str:sha256>/", Blob.as_view()),
    path("runs/<uuid:pk>/heartbeat/", RunHeartbeat.as_view()),
    path("runs/<uuid:pk>/commitment/", RunCommitment.as_view()),
    path("runs/<uuid:pk>/pairs/", RunPair.as_view()),
    path("runs/<uuid:pk>/log/", RunLogAppend.as_view()),
    path("runs/<uuid:pk>/evidence/", RunEvidenceRecord.as_view()),
    path("runs/<uuid:pk>/failed/", RunFailed.as_view()),
    path("me/", Me.as_view()),
]
