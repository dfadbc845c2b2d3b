"""What is usual for the hosts that serve a deployment: the time in service over the canary's, known from the tree before.

It is found once, when the deployment has begun to serve, and kept with the canary's result, because the gateway's
windows of the tree before are forgotten after some days.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from gainshare.capacity.deployments.handover import original
from gainshare.capacity.deployments.slowness import (
    Usual,
    decode_ns,
    drift_of,
    inherited,
    prefill_ns,
    usual_of,
)
from gainshare.capacity.deployments.windows import DECODE, WINDOW, Clocked, paces, windows_of
from gainshare.capacity.models import Deployment, DeploymentState

KEY = "usual"  # in a deployment's result
USUAL_OF = timedelta(days=1)  # of the tree before: the last windows, of quiet hours and busy ones


def usual_for(deployment: Deployment, now: datetime) -> dict[str, Usual]:
    """What is usual for the serving deployment by line; found and kept by the first call that has all windows before."""
    told = deployment.result.get(KEY)
    if told is not None:
        return {line: Usual.from_json(one) for line, one in told.items()}
    assert deployment.serving_at is not None, "it serves"
    if not deployment.result or now < deployment.serving_at + WINDOW:
        return {}
    found = _found(deployment, deployment.serving_at)
    deployment.result = {
        **deployment.result,
        KEY: {line: one.to_json() for line, one in found.items()},
    }
    serving = Deployment.objects.filter(pk=deployment.pk, state=DeploymentState.SERVING)
    serving.update(result=deployment.result)
    return found


def _found(deployment: Deployment, serving_at: datetime) -> dict[str, Usual]:
    source = original(deployment.before)
    tree = "" if source is None else source.tree
    clocked = Clocked.of(deployment, "served")
    before = windows_of(deployment.model, tree, serving_at - USUAL_OF, serving_at - WINDOW)
    found = {}
    for line, windows in paces(before, clocked).items():
        own = usual_of(list(windows.values()), serving_at)
        found[line] = inherited(own, *_passed_on(source, clocked, line))
    return found


def _passed_on(source: Deployment | None, served: Clocked, line: str) -> tuple[Usual | None, float]:
    """What held for the tree before, if it was clocked, and how much longer it took in this canary than in its own."""
    told = {} if source is None or source.is_first else source.result.get(KEY, {})
    if source is None or line not in told:
        return None, 0.0
    own = Clocked.of(source, "candidate")
    if line == DECODE:
        earlier = {batch: decode_ns(batch, own.decode) for batch in served.decode}
        return Usual.from_json(told[line]), drift_of(served.decode, earlier)
    earlier = {length: prefill_ns(length, own.prefill) for length in served.prefill}
    return Usual.from_json(told[line]), drift_of(served.prefill, earlier)
