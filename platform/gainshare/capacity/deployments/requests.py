"""Ask for a deployment: one tree for one model."""

from __future__ import annotations

import re

from django.db import IntegrityError, transaction
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.accounts.models import User
from gainshare.capacity.deployments.errors import DeploymentUnderWay
from gainshare.capacity.deployments.handover import advance
from gainshare.capacity.deployments.serving import serving_tree
from gainshare.capacity.errors import CapacityError, NotAllowed, NotFound
from gainshare.capacity.models import (
    HAS_SERVED,
    UNDER_WAY,
    Deployment,
    DeploymentState,
    Node,
    ServedModel,
)

TREE = re.compile(r"[0-9a-f]{64}")
MAX_REASON = 300
MAX_MARGIN_PPM = 1_000_000


def request_deployment(
    *,
    model: str,
    tree: str,
    lineage: str,
    actor: User | None,
    reason: str,
    quality_margin_ppm: int | None = None,
) -> Deployment:
    """Ask for ``tree`` to serve ``model``, and return its deployment; one that serves or is under way is returned as it is.

    The caller vouches that the tree is merged and that its protected files are the installed ones. ``actor`` None is
    the platform itself; people must be maintainers. ``quality_margin_ppm`` is for a gain by the quality route:
    `benchmarks.canary.order.Plan`. Raises NotAllowed, NotFound, DeploymentUnderWay, CapacityError.
    """
    if actor is not None and not actor.is_maintainer:
        raise NotAllowed("Only maintainers can deploy a tree. Ask a maintainer to do it.")
    _check(model, tree, quality_margin_ppm)
    try:
        with transaction.atomic():
            known = _known(model, tree)
            if known is not None:
                return known
            made = _create(model, tree, lineage, actor, reason, quality_margin_ppm)
            fault_point("deployments.request.before_commit")
    except IntegrityError:  # another process asked in the same moment
        known = _known(model, tree)
        if known is None:
            raise
        return known
    fault_point("deployments.request.committed")
    advance(model)
    return Deployment.objects.get(pk=made.pk)


def _check(model: str, tree: str, quality_margin_ppm: int | None) -> None:
    if not TREE.fullmatch(tree):
        raise CapacityError(
            "A tree is named by its hash, 64 hexadecimal digits.", code="bad_tree", status=400
        )
    if quality_margin_ppm is not None and not 0 <= quality_margin_ppm <= MAX_MARGIN_PPM:
        raise CapacityError(
            f"The margin must be between 0 and {MAX_MARGIN_PPM} millionths.", code="bad_margin", status=400
        )
    if not ServedModel.objects.filter(name=model).exists():
        served = ", ".join(ServedModel.objects.values_list("name", flat=True)) or "none yet"
        raise NotFound(f"The pool does not serve a model {model}. It serves: {served}.")


def _known(model: str, tree: str) -> Deployment | None:
    """The deployment of this tree that serves or is under way. Raises DeploymentUnderWay for another one."""
    under_way = Deployment.objects.filter(model=model, state__in=UNDER_WAY).first()
    if under_way is not None and under_way.tree != tree:
        raise DeploymentUnderWay(
            f"The deployment {under_way.pk} of {under_way.tree[:12] or 'the installed tree'} for {model} is under way "
            f"({under_way.state}). Wait until it is decided, then ask again."
        )
    if under_way is not None:
        return under_way
    return Deployment.objects.filter(model=model, tree=tree, state=DeploymentState.SERVING).first()


def _create(
    model: str, tree: str, lineage: str, actor: User | None, reason: str, margin: int | None
) -> Deployment:
    is_first = _is_first(model)
    return Deployment.objects.create(
        model=model,
        tree=tree,
        before=Deployment.objects.filter(model=model, state=DeploymentState.SERVING).first(),
        is_first=is_first,
        lineage=lineage,
        reason=reason[:MAX_REASON],
        requested_by=actor,
        state=DeploymentState.STARTING if is_first else DeploymentState.REQUESTED,
        starting_at=timezone.now() if is_first else None,
        plan={"quality_margin_ppm": margin},
    )


def _is_first(model: str) -> bool:
    """Whether nothing answers or ever answered for the model, so that there is nothing to compare with."""
    has_served = Deployment.objects.filter(model=model, state__in=HAS_SERVED).exists()
    was_ready = Node.objects.filter(model=model, ready_at__isnull=False).exists()
    return not has_served and not was_ready and serving_tree(model) == ""
