"""Pages of deployments: which tree serves each model, and what the canary of each tree measured."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET

from benchmarks.canary.order import LINES
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.capacity.deployments.rollback import roll_back
from gainshare.capacity.models import UNDER_WAY, Deployment, DeploymentState
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class LineRow:
    """One line of a canary: estimate and lower bound in millionths of a nat, against the served and the best tree."""

    name: str
    served: dict[str, int] | None
    best: dict[str, int] | None


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Milliseconds for one token at so many answers at once."""

    batch: int
    served_ms: float
    candidate_ms: float


@require_GET
def deployments(request: HttpRequest) -> HttpResponse:
    """Page of all deployments, the newest first."""
    rows = Deployment.objects.select_related("before", "requested_by")
    return render(request, "web/deployments.html", {"page": page_of(request, rows, PER_PAGE)})


@require_GET
def deployment(request: HttpRequest, deployment_id: UUID) -> HttpResponse:
    """Page of one deployment: its steps, its canary's figures, and for maintainers the way back."""
    return deployment_page(request, deployment_id)


@signed_in
def rollback(request: SignedInRequest, deployment_id: UUID) -> HttpResponse:
    """Put the tree before back, and redirect to the new deployment's page."""
    shown = get_object_or_404(Deployment, pk=deployment_id)
    if request.method != "POST":
        return redirect("deployment", deployment_id=deployment_id)
    if not request.user.is_maintainer:
        raise PermissionDenied("Only maintainers can roll a deployment back. Ask a maintainer to do it.")
    reason = typed_text(request)
    try:
        if shown.state != DeploymentState.SERVING:
            raise NotServing(
                f"This deployment is {shown.get_state_display().lower()}, so it cannot be rolled back."
            )
        made = roll_back(model=shown.model, actor=request.user, reason=reason)
    except DomainError as error:
        return deployment_page(request, deployment_id, Refused("rollback", reason, error.message))
    messages.success(request, "The tree before is put back. It serves as soon as its nodes are ready.")
    return redirect("deployment", deployment_id=made.pk)


class NotServing(DomainError):
    """Only what serves can be rolled back."""

    code = "wrong_state"
    status = 409


def deployment_page(
    request: HttpRequest, deployment_id: UUID, refused: Refused | None = None
) -> HttpResponse:
    """The deployment's page, with the typed reason of a rollback that was refused."""
    rows = Deployment.objects.select_related("before", "requested_by", "host")
    shown = get_object_or_404(rows, pk=deployment_id)
    is_maintainer = isinstance(request.user, User) and request.user.is_maintainer
    context = {
        "deployment": shown,
        "lines": line_rows(shown),
        "batches": batch_rows(shown),
        "is_under_way": shown.state in UNDER_WAY,
        "is_maintainer": is_maintainer,
        "may_roll_back": is_maintainer and shown.state == DeploymentState.SERVING,
        "refused": refused,
    }
    return render(request, "web/deployment.html", context, status=409 if refused else 200)


def line_rows(shown: Deployment) -> list[LineRow]:
    """What the canary measured of each line; none before it was judged."""
    served, best = shown.result.get("served", {}), shown.result.get("best", {})
    rows = [LineRow(name, served.get(name), best.get(name)) for name in LINES]
    return [row for row in rows if row.served or row.best]


def batch_rows(shown: Deployment) -> list[BatchRow]:
    """The times of one token by the number of answers at once."""
    return [
        BatchRow(row["batch"], row["served_ns"] / NS_PER_MS, row["candidate_ns"] / NS_PER_MS)
        for row in shown.result.get("batch_times", ())
    ]
