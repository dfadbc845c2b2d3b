"""Page of what serving cost beside what it earned, for maintainers."""

from collections.abc import Sequence

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from gainshare.gateway.serving_cost import DayOfServing, serving_days
from gainshare.web.cost_plot import CostDay, plot_cost
from gainshare.web.signed_in import SignedInRequest, signed_in

DAYS = 30


@signed_in
@require_GET
def serving_cost(request: SignedInRequest) -> HttpResponse:
    """Page with the latest days: cost of nodes, tokens, revenue, by day and model."""
    if not request.user.is_maintainer:
        raise PermissionDenied(
            "Only maintainers see what serving costs. Ask a maintainer to give you that role."
        )
    rows = serving_days(days=DAYS, now=timezone.now())
    days = summed(rows)
    tokens = sum(row.tokens for row in rows)
    cost, revenue = sum(day.cost for day in days), sum(day.revenue for day in days)
    context = {
        "rows": rows,
        "plot": plot_cost(days),
        "n_days": DAYS,
        "cost": cost,
        "revenue": revenue,
        "margin": revenue - cost,
        "cost_per_million": cost * 1_000_000 // tokens if tokens else None,
        "revenue_per_million": revenue * 1_000_000 // tokens if tokens else None,
    }
    return render(request, "web/serving_cost.html", context)


def summed(rows: Sequence[DayOfServing]) -> list[CostDay]:
    """All models' sums by day, oldest first; days on which nothing happened are left out."""
    days: dict[object, CostDay] = {}
    for row in rows:
        so_far = days.get(row.day, CostDay(row.day, 0, 0))
        days[row.day] = CostDay(
            row.day, so_far.cost + row.cost_microcredits, so_far.revenue + row.revenue_microcredits
        )
    return sorted(days.values(), key=lambda day: day.day)
