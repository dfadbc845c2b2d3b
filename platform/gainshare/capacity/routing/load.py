"""Load of one model as all web processes see it together, for scaling and for pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.db.models import Count, Q, Sum

from gainshare.capacity.models import Arrivals, Seat
from gainshare.capacity.policies.observed import Load

STEP_S = 10  # seconds of one step of arrivals
STEPS = 60  # steps that `load_of` returns by default
PROMISES_OF = timedelta(days=1)  # over which the share of late requests is counted


def step_of(at: datetime) -> datetime:
    """The beginning of the step that `at` is in."""
    return datetime.fromtimestamp(at.timestamp() // STEP_S * STEP_S, UTC)


def load_of(model: str, now: datetime, *, steps: int = STEPS) -> Load:
    """Answers in progress, requests without a first token, and the arrivals of the latest `steps` whole steps.

    Requests that wait in front of the nodes count among the waiting ones, also where no node is ready.
    """
    seats = Seat.objects.filter(model=model).aggregate(
        all=Count("pk"), answering=Count("pk", filter=Q(first_token_at__isnull=False))
    )
    end = int(step_of(now).timestamp())
    begin = end - steps * STEP_S
    found = {
        int(at.timestamp()): n
        for at, n in Arrivals.objects.filter(
            model=model,
            step_at__gte=datetime.fromtimestamp(begin, UTC),
            step_at__lt=datetime.fromtimestamp(end, UTC),
        ).values_list("step_at", "requests")
    }
    return Load(
        late_share=late_share(model, now),
        running=seats["answering"],
        waiting=seats["all"] - seats["answering"],
        arrivals=tuple(found.get(at, 0) for at in range(begin, end, STEP_S)),
        step_s=float(STEP_S),
    )


def late_share(model: str, now: datetime) -> float | None:
    """As `Load.late_share`, as the gateways measured it; None without any request."""
    latest = Arrivals.objects.filter(model=model, step_at__gt=now - PROMISES_OF)
    sums = latest.aggregate(ended=Sum("ended"), late=Sum("late"), slow=Sum("slow"))
    return max(sums["late"], sums["slow"]) / sums["ended"] if sums["ended"] else None
