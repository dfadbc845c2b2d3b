"""Who has made a bounty's series how much faster."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from bounty.models import Award, AwardRole, AwardState, Bounty

LENGTH = 100


@dataclass(frozen=True, slots=True)
class Place:
    """One confirmed gain. ``log_ppm_bound`` is its confirmed lower bound in millionths of a nat."""

    rank: int
    submitter: str
    submission: UUID
    log_ppm_bound: int
    amount_microcredits: int
    state: str
    booked_at: datetime


def leaderboard(*, bounty: Bounty) -> list[Place]:
    """Standing awards, the largest bound first, at most 100."""
    awards = (
        Award.objects.filter(
            submission__bounty=bounty, role=AwardRole.GAIN, state__in=[AwardState.UNVESTED, AwardState.VESTED]
        )
        .select_related("submission__submitter")
        .order_by("-log_ppm_bound", "booked_at")[:LENGTH]
    )
    places = []
    for rank, award in enumerate(awards, 1):
        bound, amount, at = award.log_ppm_bound, award.amount_microcredits, award.booked_at
        assert bound is not None and amount is not None and at is not None, "a booked award has its figures"
        person = award.submission.submitter.username
        places.append(Place(rank, person, award.submission_id, bound, amount, award.state, at))
    return places
