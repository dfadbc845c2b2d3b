"""REST: what maintainers do with runners. Each action may be repeated and is in the runner's history."""

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
from bounty.services.runners import care as runner_care
from gainshare.accounts.permissions import IsMaintainer


class StateIn(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=RunnerState.choices)
    reason = serializers.CharField(max_length=1000, default="by a maintainer")


class CalibrateIn(serializers.Serializer[Any]):
    suite = serializers.CharField(
        max_length=60,
        allow_blank=True,
        default="",
        help_text="With `preset`; else all that bounties pay for.",
    )
    preset = serializers.CharField(max_length=60, allow_blank=True, default="")
    tree = serializers.CharField(
        max_length=64, default="shipped", help_text="What is measured against itself."
    )


class RunnerStateView(APIView):
    """Bring a runner into a state (maintainers). The same as the action of that name."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=StateIn, responses=RunnerOut)
    def post(self, request: Request, name: str) -> Response:
        values = validated(StateIn, request)
        return Response(
            RunnerOut(runner_care.set_runner_state(actor=caller(request), name=name, **values)).data
        )


class _Action(APIView):
    """POST a reason; the answer is the runner as it is then."""

    permission_classes = [IsMaintainer]
    act: Callable[..., Runner]

    @extend_schema(request=StatedReason, responses=RunnerDetailOut)
    def post(self, request: Request, name: str) -> Response:
        runner = type(self).act(actor=caller(request), name=name, **validated(StatedReason, request))
        return Response(RunnerDetailOut(runner).data)


class RunnerDrain(_Action):
    """Let a runner finish what it has and give it nothing more."""

    act = staticmethod(runner_care.drain)


class RunnerResume(_Action):
    """Give a drained runner work again."""

    act = staticmethod(runner_care.resume)


class RunnerQuarantine(_Action):
    """Trust a runner no more. It gets only A/A runs, and a submission's run that it has goes elsewhere."""

    act = staticmethod(runner_care.quarantine)


class RunnerRelease(_Action):
    """Trust a quarantined runner again."""

    act = staticmethod(runner_care.release)


class RunnerCalibrate(APIView):
    """Order A/A runs that only one runner may take. Those that it has before it already are not ordered twice."""

    permission_classes = [IsMaintainer]

    @extend_schema(request=CalibrateIn, responses={201: RunOut(many=True)})
    def post(self, request: Request, name: str) -> Response:
        _, runs = runner_care.calibrate(actor=caller(request), name=name, **validated(CalibrateIn, request))
        return Response(RunOut(runs, many=True).data, status=201)
