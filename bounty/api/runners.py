"""REST: registering and listing runners. Maintainers' actions are in `runner_actions`."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import asked_by, asking, caller, validated
from bounty.api.runs import ChangeOut, RunOut
from bounty.models import OPEN_RUN_STATES, NoiseSample, Runner, RunnerFailure
from bounty.services.access import sees_course
from bounty.services.runners.device_waits import is_waiting
from bounty.services.runners.devices import host_of
from bounty.services.runners.doubts import runs_in_doubt
from bounty.services.runners.false_awards import false_awards
from bounty.services.runners.maintenance import find_runner
from bounty.services.runners.registration import register_runner
from bounty.services.transitions import history
from gainshare.accounts.permissions import IsMaintainer

SHOWN_FAILURES = 20


class RunnerIn(serializers.Serializer[Any]):
    name = serializers.SlugField(max_length=60)
    hardware = serializers.SlugField(max_length=60, default="cpu")
    public_key = serializers.CharField(max_length=64, help_text="Raw Ed25519 public key in base64.")
    fingerprint = serializers.DictField(
        default=dict, help_text="The output of `python -m benchmarks.runner.fingerprint` on that machine."
    )
    host = serializers.CharField(max_length=120, allow_blank=True, default="")


class RunnerOut(serializers.ModelSerializer[Runner]):
    current_run = serializers.SerializerMethodField(
        help_text="Null also while it judges a submission whose runs the caller may not see yet."
    )
    is_waiting_for_device = serializers.SerializerMethodField(
        help_text="True while other work on its machine uses the device. The runner takes no run until that ends."
    )

    pool_host = serializers.SerializerMethodField(
        help_text="Host of the pool on whose device it measures; empty: none of them."
    )
    pool_device = serializers.IntegerField(
        source="device_number",
        allow_null=True,
        read_only=True,
        help_text="Number of that host's device, from 0.",
    )

    class Meta:
        model = Runner
        fields = [
            "id",
            "name",
            "hardware",
            "host",
            "pool_host",
            "pool_device",
            "public_key",
            "key_id",
            "fingerprint",
            "state",
            "quarantine_cause",
            "quarantined_at",
            "history_since",
            "current_run",
            "is_waiting_for_device",
            "created_at",
            "last_seen_at",
        ]

    @extend_schema(responses=serializers.UUIDField(allow_null=True))
    def get_current_run(self, runner: Runner) -> str | None:
        open_runs = runner.runs.filter(state__in=OPEN_RUN_STATES).select_related("submission__bounty")
        run = open_runs.first()
        return str(run.pk) if run is not None and sees_course(asking(self), run) else None

    def get_pool_host(self, runner: Runner) -> str:
        return host_of(runner)

    def get_is_waiting_for_device(self, runner: Runner) -> bool:
        return is_waiting(runner)


class RunnerMade(RunnerOut):
    token = serializers.CharField(help_text="Shown only in this answer.")

    class Meta(RunnerOut.Meta):
        fields = [*RunnerOut.Meta.fields, "token"]


class NoiseSampleOut(serializers.ModelSerializer[NoiseSample]):
    run = serializers.UUIDField(source="run_id")

    class Meta:
        model = NoiseSample
        fields = [
            "run",
            "suite",
            "preset",
            "pairs",
            "noise_log_ppm",
            "median_log_ppm",
            "slowdown_log_ppm",
            "verdict_kind",
            "is_good",
            "fault",
            "created_at",
        ]


class FailureOut(serializers.ModelSerializer[RunnerFailure]):
    run = serializers.SerializerMethodField(
        help_text="Null while it is of a submission whose runs the caller may not see yet."
    )

    class Meta:
        model = RunnerFailure
        fields = ["run", "attempt", "reason", "created_at"]

    @extend_schema(responses=serializers.UUIDField(allow_null=True))
    def get_run(self, failure: RunnerFailure) -> str | None:
        return str(failure.run_id) if sees_course(asking(self), failure.run) else None


class RunnerDetailOut(RunnerOut):
    failures = serializers.SerializerMethodField()
    changes = serializers.SerializerMethodField()

    class Meta(RunnerOut.Meta):
        fields = [*RunnerOut.Meta.fields, "failures", "changes"]

    @extend_schema(responses=FailureOut(many=True))
    def get_failures(self, runner: Runner) -> list[dict[str, Any]]:
        newest = runner.failures.select_related("run__submission__bounty").order_by("-created_at")
        return list(FailureOut(newest[:SHOWN_FAILURES], many=True, context=self.context).data)

    @extend_schema(responses=ChangeOut(many=True))
    def get_changes(self, runner: Runner) -> list[dict[str, Any]]:
        return [dict(ChangeOut(change).data) for change in history(runner)]


class RunnerList(generics.ListAPIView[Runner]):
    """All runners with their public keys."""

    queryset = Runner.objects.all()
    serializer_class = RunnerOut

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny()] if self.request.method != "POST" else [IsMaintainer()]

    @extend_schema(request=RunnerIn, responses={201: RunnerMade})
    def post(self, request: Request) -> Response:
        """Register a runner (maintainers)."""
        runner, token = register_runner(actor=caller(request), **validated(RunnerIn, request))
        return Response({**RunnerOut(runner, context={"request": request}).data, "token": token}, status=201)


class RunnerDetail(generics.RetrieveAPIView[Runner]):
    """One runner with its history. Its public key verifies the signatures on its evidence."""

    queryset = Runner.objects.all()
    serializer_class = RunnerDetailOut
    permission_classes = [AllowAny]
    lookup_field = "name"


class FalseAwardsOut(serializers.Serializer[Any]):
    """How often an A/A run passed the gate, over all runners."""

    runs = serializers.IntegerField(help_text="A/A runs so far.")
    passed = serializers.IntegerField(help_text="Those in which the gate found a gain that is not there.")
    rate_ppm = serializers.IntegerField(allow_null=True, help_text="passed / runs, in millionths.")
    upper_bound_ppm = serializers.IntegerField(help_text="One-sided upper bound of the rate, in millionths.")
    confidence_percent = serializers.IntegerField()


class RunnerFalseAwards(APIView):
    """The live rate of false gains in A/A runs. An award needs a confirmation too, so it is an upper limit of false awards."""

    permission_classes = [AllowAny]

    @extend_schema(responses=FalseAwardsOut)
    def get(self, request: Request) -> Response:
        return Response(FalseAwardsOut(false_awards()).data)


class RunnerNoise(generics.ListAPIView[NoiseSample]):
    """Results of a runner's A/A runs, the newest first."""

    serializer_class = NoiseSampleOut
    permission_classes = [AllowAny]

    def get_queryset(self) -> Any:
        return NoiseSample.objects.filter(runner__name=self.kwargs.get("name")).order_by("-created_at")


class RunnerDoubts(APIView):
    """Runs in doubt after a quarantine for drift. These are award-relevant runs since the last good A/A run."""

    permission_classes = [AllowAny]

    @extend_schema(responses=RunOut(many=True))
    def get(self, request: Request, name: str) -> Response:
        person = asked_by(request)
        runs = [run for run in runs_in_doubt(find_runner(name)) if sees_course(person, run)]
        return Response(RunOut(runs, many=True, context={"request": request}).data)
