"""Pages of scaling: served models, and each one's decisions with their reasons and a plot."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_GET

from gainshare.capacity.models import Decision, ScalingState, ServedModel
from gainshare.capacity.scaling.wanted import WantedRow, wanted_rows
from gainshare.web.paging import page_of
from gainshare.web.scaling_plot import ScalingPoint, plot_nodes, plot_requests, thinned
from gainshare.web.signed_in import SignedInRequest, signed_in

PER_PAGE = 50
HOURS = (1, 6, 24, 72)


@dataclass(frozen=True, slots=True)
class ServedRow:
    """A served model with what scaling last decided."""

    served: ServedModel
    scaling: ScalingState
    classes: list[WantedRow]

    @property
    def wanted(self) -> int:
        return sum(row.wanted for row in self.classes)

    @property
    def ready(self) -> int:
        return sum(row.ready for row in self.classes)

    @property
    def troubles(self) -> list[str]:
        """What keeps the counts from being reached."""
        found = (self.scaling.problem, self.scaling.failure, self.scaling.engine_failure)
        return [trouble for trouble in found if trouble]


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision in the table, with the counts in words."""

    decision: Decision
    before: str
    wanted: str
    requests: int


@signed_in
@require_GET
def scaling(request: SignedInRequest) -> HttpResponse:
    """Page of all served models."""
    return render(request, "web/scaling.html", {"rows": served_rows()})


@signed_in
@require_GET
def scaling_model(request: SignedInRequest, name: str) -> HttpResponse:
    """Page of one served model: its plot and its decisions, newest first."""
    served = get_object_or_404(ServedModel, name=name)
    page = page_of(request, Decision.objects.filter(served=served, is_change=True), PER_PAGE)
    hours = chosen_hours(request.GET.get("hours"))
    end = timezone.now()
    start = end - timedelta(hours=hours)
    points = thinned(points_of(served, start))
    (row,) = served_rows(served)
    context = {
        "row": row,
        "page": page,
        "decisions": [decision_row(decision) for decision in page.object_list],
        "hours": hours,
        "choices": HOURS,
        "nodes_plot": plot_nodes(points, start=start, end=end),
        "requests_plot": plot_requests(points, start=start, end=end),
    }
    return render(request, "web/scaling_model.html", context)


def served_rows(only: ServedModel | None = None) -> list[ServedRow]:
    """All served models by name, or only this one."""
    found = ServedModel.objects.select_related("scaling").order_by("name")
    models = list(found if only is None else found.filter(pk=only.pk))
    counts = wanted_rows(None if only is None else only.name)
    return [
        ServedRow(
            served,
            getattr(served, "scaling", None) or ScalingState(served=served),
            [row for row in counts if row.model == served.name],
        )
        for served in models
    ]


def chosen_hours(text: str | None) -> int:
    """The length of the plot that was asked for; six hours for anything else."""
    return next((hours for hours in HOURS if str(hours) == text), 6)


def points_of(served: ServedModel, start: datetime) -> list[ScalingPoint]:
    """The model's decisions since ``start``, oldest first, and the last one before it, with which the plot begins."""
    decisions = Decision.objects.filter(served=served)
    fields = ("created_at", "wanted", "reason", "is_change", "inputs__load", "inputs__fleets")
    before = list(decisions.filter(created_at__lt=start).values_list(*fields)[:1])
    since = decisions.filter(created_at__gte=start).order_by("created_at", "pk").values_list(*fields)
    return [
        ScalingPoint(
            at=at,
            wanted=sum(wanted.values()),
            ready=sum(fleet["ready"] for fleet in (fleets or {}).values()),
            requests=(load or {}).get("running", 0) + (load or {}).get("waiting", 0),
            reason=reason if is_change and at >= start else "",
        )
        for at, wanted, reason, is_change, load, fleets in [*before, *since]
    ]


def decision_row(decision: Decision) -> DecisionRow:
    """The decision with its counts in words and the requests that it saw."""
    load: dict[str, Any] = decision.inputs.get("load", {})
    return DecisionRow(
        decision,
        counts_in_words(decision.before),
        counts_in_words(decision.wanted),
        load.get("running", 0) + load.get("waiting", 0),
    )


def counts_in_words(counts: dict[str, int]) -> str:
    """`2 cpu-small, 1 h100`; `none` for no nodes."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"
