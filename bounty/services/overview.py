"""Public overview of the platform: open bounties, credits paid, latest confirmed gain.

Read-only. Undecided submissions and reserved awards are left out.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q, Sum

from bounty.models import Award, AwardRole, AwardState, Bounty, BountyState, SubmissionState
from bounty.services.series.best import STANDING

# In other states a confirmed award is being priced again, and is hidden until that is decided.
DECIDED = (SubmissionState.CONFIRMED, SubmissionState.ACCEPTED, SubmissionState.VESTED)
CONFIRMED_GAIN = Q(role=AwardRole.GAIN, state__in=STANDING, submission__state__in=DECIDED)


@dataclass(frozen=True, slots=True)
class Overview:
    """`bounties` are the newest of `n_open`; `latest` comes with its submission, run and evidence."""

    bounties: list[Bounty]
    n_open: int
    paid_microcredits: int
    n_gains: int
    latest: Award | None


def overview(*, now: datetime, shown: int) -> Overview:
    """The overview, with at most `shown` open bounties, in a fixed number of queries."""
    taking = Q(deadline_at=None) | Q(deadline_at__gt=now)
    still_open = Bounty.objects.filter(taking, state=BountyState.OPEN)
    totals = Award.objects.aggregate(
        paid=Sum("amount_microcredits", filter=Q(state=AwardState.VESTED), default=0),
        gains=Count("pk", filter=CONFIRMED_GAIN),
    )
    return Overview(
        bounties=list(still_open.select_related("lineage").order_by("-created_at")[:shown]),
        n_open=still_open.count(),
        paid_microcredits=int(totals["paid"]),
        n_gains=int(totals["gains"]),
        latest=latest_gain(),
    )


def latest_gain() -> Award | None:
    """The newest confirmed gain of all bounties."""
    return (
        Award.objects.filter(CONFIRMED_GAIN)
        .select_related(
            "submission__submitter",
            "submission__bounty__lineage",
            "confirmation_run__runner",
            "confirmation_run__verdict__evidence",
        )
        .order_by("-booked_at", "-pk")
        .first()
    )
