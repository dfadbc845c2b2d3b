"""Canaries as the site runs them: given to one host, told with its heartbeats, begun again where a host fails."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import F, QuerySet
from django.utils import timezone

from benchmarks.canary.order import CanaryOrder, Plan
from benchmarks.faults import fault_point
from benchmarks.sandbox.readable import readable
from benchmarks.statistics.confirm import LEAST_PAIRS
from gainshare.capacity.agent.protocol import CanaryReport
from gainshare.capacity.deployments.errors import NotThisCanary
from gainshare.capacity.deployments.prices import best_tree
from gainshare.capacity.deployments.serving import serving_tree
from gainshare.capacity.deployments.shapes import draw
from gainshare.capacity.hosts.silence import PATIENCE, was_listening
from gainshare.capacity.models import Deployment, DeploymentState, Host, Node, NodeState, ServedModel

MOST_TRIES = 3
MAX_PROGRESS, MAX_WHY = 200, 300


def order_for(host: Host, report: CanaryReport | None) -> CanaryOrder | None:
    """The canary that the host's agent should run now, begun by this call if one waits for it. For each heartbeat."""
    running = Deployment.objects.filter(host=host, state=DeploymentState.CANARY).first()
    if running is not None:
        if report is not None and report.id == running.pk:
            _note_progress(running, report.progress)
        return expected_order(running)
    if not host.public_key or host.n_devices == 0 or host.leaves_at is not None:
        return None  # its document could not be checked, or it is about to go
    for waiting in Deployment.objects.filter(state=DeploymentState.REQUESTED).order_by("created_at"):
        if _may_try(host, waiting.model) and begin(waiting, host):
            return expected_order(Deployment.objects.get(pk=waiting.pk))
    return None


def begin(deployment: Deployment, host: Host) -> bool:
    """Give the canary to the host, with a new nonce. Returns whether this call did it."""
    served, nonce = serving_tree(deployment.model), secrets.token_hex(32)
    drawn = draw(deployment.model, nonce)
    plan = Plan(
        shapes=drawn.shapes,
        pairs=LEAST_PAIRS,  # each lasts seconds, and the merge waits
        quality_margin_ppm=deployment.plan.get("quality_margin_ppm"),
    )
    begun = Deployment.objects.filter(pk=deployment.pk, state=DeploymentState.REQUESTED).update(
        state=DeploymentState.CANARY,
        host=host,
        canary_at=timezone.now(),
        tries=F("tries") + 1,
        progress="",
        plan={
            **plan.to_json(),
            "shapes_source": drawn.source,
            "nonce": nonce,
            "served": served,
            "best": best_tree(deployment.model),
        },
    )
    fault_point("deployments.canary.begun")
    return begun > 0


def fail(*, host: Host, deployment_id: UUID, reason: str, is_of_tree: bool = False) -> Deployment:
    """Take an agent's word that it could not run its canary; the deployment afterwards. Raises NotThisCanary.

    Where it says that the tree does not build next to one that does, the deployment is refused and not tried again.
    """
    running = Deployment.objects.filter(pk=deployment_id, host=host, state=DeploymentState.CANARY).first()
    if running is None:
        raise NotThisCanary("This host runs no such canary now. Drop it.")
    if is_of_tree:
        _end(running, DeploymentState.REFUSED, f"on the host {host.name}, {readable(reason)}")
    else:
        try_again(running, f"the host {host.name} could not run the canary: {readable(reason)}")
    return Deployment.objects.get(pk=deployment_id)


def tend(now: datetime) -> int:
    """Begin canaries again whose host was lost or that take too long; return how many. For beat."""
    silent_s = settings.HOST_LOST_S * (1 if was_listening(now) else PATIENCE)
    heard_since = now - timedelta(seconds=silent_s)
    count = 0
    for running in Deployment.objects.filter(state=DeploymentState.CANARY).select_related("host"):
        if reason := _why_lost(running, now, heard_since):
            count += try_again(running, reason)
    return count


def try_again(deployment: Deployment, reason: str) -> bool:
    """Let another try begin, or end the deployment as failed after MOST_TRIES. Returns whether this call did it."""
    if deployment.tries < MOST_TRIES:
        again = {"state": DeploymentState.REQUESTED, "host": None, "progress": reason[:MAX_PROGRESS]}
        return same_try(deployment).update(**again) > 0
    why = f"{deployment.tries} canaries could not be run; the last: {reason}"
    return _end(deployment, DeploymentState.FAILED, why)


def _end(deployment: Deployment, state: DeploymentState, why: str) -> bool:
    return same_try(deployment).update(state=state, why=why[:MAX_WHY], ended_at=timezone.now()) > 0


def same_try(deployment: Deployment) -> QuerySet[Deployment]:
    """The row, unless the canary was decided or begun again meanwhile."""
    return Deployment.objects.filter(
        pk=deployment.pk, state=DeploymentState.CANARY, tries=deployment.tries, host=deployment.host_id
    )


def expected_order(deployment: Deployment) -> CanaryOrder:
    """The order that a canary's document has to repeat."""
    plan = deployment.plan
    return CanaryOrder(
        id=deployment.pk,
        model=deployment.model,
        served=plan["served"],
        candidate=deployment.tree,
        best=plan["best"],
        nonce=plan["nonce"],
        plan=Plan.from_json(plan),
    )


def _may_try(host: Host, model: str) -> bool:
    """Whether this host is the one to ask: with a ready node of the model, or of its classes where no such host is heard."""
    heard = Host.objects.filter(
        revoked_at=None,
        leaves_at=None,
        n_devices__gt=0,
        last_seen_at__gte=timezone.now() - timedelta(seconds=settings.HOST_LOST_S),
    ).exclude(public_key="")
    serving = Node.objects.filter(model=model, state=NodeState.READY, hung_at=None, host__in=heard)
    if serving.exists():
        return serving.filter(host=host).exists()
    return ServedModel.objects.filter(name=model, classes=host.device_class_id).exists()


def _note_progress(running: Deployment, progress: str) -> None:
    text = readable(progress)[:MAX_PROGRESS]
    if text != running.progress:
        Deployment.objects.filter(pk=running.pk, state=DeploymentState.CANARY).update(progress=text)


def _why_lost(running: Deployment, now: datetime, heard_since: datetime) -> str:
    host, begun = running.host, running.canary_at
    assert host is not None and begun is not None, "a canary has its host and its time"
    if host.revoked_at is not None:
        return f"the host {host.name} was revoked"
    if host.last_seen_at is None or host.last_seen_at < heard_since:
        return f"the host {host.name} is silent"
    if now - begun > timedelta(seconds=settings.CANARY_LIMIT_S):
        return f"the canary on {host.name} was not done after {settings.CANARY_LIMIT_S} s"
    return ""
