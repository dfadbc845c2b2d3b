"""REST: maintainers' actions on runners. Each action may be repeated and is recorded in the runner's history."""

from collections.abc import Callable
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bounty.api.parsing import StatedReason, caller, validated
from bounty.api.runners import RunnerDetailOut, RunnerOut
from bounty.api.runs import RunOut
from bounty.models import Runner, RunnerState
from bounty.services.runners import maintenance as runner_maintenance
from bounty.services.runners.devices import MAX_DEVICE, set_device
from gainshare.accounts.permissions import IsMaintainer


class StateIn(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=RunnerState.choices)
    reason = serializers.CharField(max_length=1000, default="by a maintainer")


class CalibrateIn(serializers.Serializer[Any]):
    suite = serializers.CharField(
        max_length=60,
        allow_blank=True,
        default="",
        help_text="Together with `preset`. Without both, all suites and presets that bounties pay for.",
    )
    preset = serializers.CharField(max_length=60, allow_blank=True, default="")
    tree = serializers.CharField(
        max_length=64, default="shipped", help_text="The tree that is measured against itself."
    )


class RunnerStateView(APIView):
    """Set a runner's state (maintainers). The same as the action of that name."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=StateIn, responses=RunnerOut)
    def post(self, request: Request, name: str) -> Response:
        values = validated(StateIn, request)
        return Response(
            RunnerOut(
                runner_maintenance.set_runner_state(actor=caller(request), name=name, **values),
                context={"request": request},
            ).data
        )


class _Action(APIView):
    """An action that takes a reason and returns the runner in its new state."""

    permission_classes = [IsMaintainer]
    act: Callable[..., Runner]

    @extend_schema(request=StatedReason, responses=RunnerDetailOut)
    def post(self, request: Request, name: str) -> Response:
        runner = type(self).act(actor=caller(request), name=name, **validated(StatedReason, request))
        return Response(RunnerDetailOut(runner, context={"request": request}).data)


class RunnerDrain(_Action):
    """Let a runner finish its run and give it no more runs."""

    act = staticmethod(runner_maintenance.drain)


class RunnerResume(_Action):
    """Give a drained runner runs again."""

    act = staticmethod(runner_maintenance.resume)


class RunnerQuarantine(_Action):
    """Quarantine a runner. It then gets only A/A runs, and a submission's run that it has goes to another runner."""

    act = staticmethod(runner_maintenance.quarantine)


class RunnerRelease(_Action):
    """Release a runner from quarantine."""

    act = staticmethod(runner_maintenance.release)


class PlaceIn(serializers.Serializer[Any]):
    host = serializers.CharField(
        max_length=60,
        allow_blank=True,
        help_text="Name of the host in the pool; empty: the runner measures on none of the pool's devices.",
    )
    device = serializers.IntegerField(
        default=0, min_value=0, max_value=MAX_DEVICE, help_text="Number of the host's device, from 0."
    )
    reason = serializers.CharField(max_length=1000)


class RunnerDevice(APIView):
    """Say on which host's device a runner measures. A device that serves as well is then lent to the runner."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=PlaceIn, responses=RunnerDetailOut)
    def post(self, request: Request, name: str) -> Response:
        runner = set_device(actor=caller(request), name=name, **validated(PlaceIn, request))
        return Response(RunnerDetailOut(runner, context={"request": request}).data)


class RunnerCalibrate(APIView):
    """Order A/A runs for this runner. A/A runs that already wait for it are not ordered twice."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=CalibrateIn, responses={201: RunOut(many=True)})
    def post(self, request: Request, name: str) -> Response:
        _, runs = runner_maintenance.calibrate(
            actor=caller(request), name=name, **validated(CalibrateIn, request)
        )
        return Response(RunOut(runs, many=True).data, status=201)
