"""What deployments do with each heartbeat: give out a canary, and switch as soon as the last successor is ready."""

from __future__ import annotations

import logging
from uuid import UUID

from benchmarks.canary.order import CanaryOrder
from gainshare.capacity.agent.protocol import CanaryReport
from gainshare.capacity.deployments.canaries import order_for
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.models import UNDER_WAY, Deployment, DeploymentState, Host, Node

logger = logging.getLogger(__name__)


def heard(host_id: UUID, report: CanaryReport | None) -> CanaryOrder | None:
    """The canary that the host should run now. Call it after the heartbeat itself was taken.

    It never raises: a host must not be lost because a deployment cannot go on; beat tries the same again.
    """
    try:
        states = dict(Deployment.objects.filter(state__in=UNDER_WAY).values_list("model", "state"))
        if not states:
            return None
        starting = [model for model, state in states.items() if state == DeploymentState.STARTING]
        for model in Node.objects.filter(host=host_id, model__in=starting).values_list("model").distinct():
            advance(model[0])
        return order_for(Host.objects.select_related("device_class").get(pk=host_id), report)
    except Exception:  # see above
        logger.exception("deployments could not go on after a heartbeat of host %s", host_id)
        return None
