"""Leaderboard of a series: every gain with its own step and the speed that it reached."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Sum

from bounty.models import Award, AwardRole, Bounty
from bounty.services.series.best import STANDING, series_awards
from bounty.standings import Step, standings

LENGTH = 100


@dataclass(frozen=True, slots=True)
class Place:
    """One confirmed gain, in millionths of a nat.

    ``log_ppm_bound`` and ``log_ppm_estimate`` are its own step over the tree before it; ``log_ppm_reached`` is the
    speed over the series' origin that is confirmed with it, ``log_ppm_most`` the upper end of that interval.
    """

    rank: int
    submitter: str
    submission: UUID
    bounty: UUID
    log_ppm_bound: int
    log_ppm_estimate: int
    log_ppm_reached: int
    log_ppm_most: int
    amount_microcredits: int
    state: str
    booked_at: datetime
    series_at: datetime


def leaderboard(*, bounty: Bounty) -> list[Place]:
    """The booked gains of the bounty's series, across all its bounties, the fastest first, at most 100."""
    if bounty.is_for_a_bug:
        return []
    awards = list(
        series_awards(bounty)
        .select_related("submission__submitter", "confirmation_run__verdict")
        .order_by("series_at", "created_at")
    )
    found = standings([_step(award) for award in awards])
    places = []
    for award, standing in zip(awards, found, strict=True):
        step, amount, booked_at, series_at = (
            _step(award),
            award.amount_microcredits,
            award.booked_at,
            award.series_at,
        )
        assert amount is not None and booked_at is not None and series_at is not None, (
            "a booked award has all its fields"
        )
        places.append(
            Place(
                rank=standing.rank,
                submitter=award.submission.submitter.username,
                submission=award.submission_id,
                bounty=award.submission.bounty_id,
                log_ppm_bound=step.bound_log_ppm,
                log_ppm_estimate=step.estimate_log_ppm,
                log_ppm_reached=standing.reached_log_ppm,
                log_ppm_most=standing.most_log_ppm,
                amount_microcredits=amount,
                state=award.state,
                booked_at=booked_at,
                series_at=series_at,
            )
        )
    return places[: -LENGTH - 1 : -1]


def series_speeds(bounties: Iterable[Bounty]) -> dict[UUID, int | None]:
    """Confirmed speed of each bounty's series over its origin, None without a gain; one query for all."""
    sums = (
        Award.objects.filter(state__in=STANDING, role=AwardRole.GAIN)
        .order_by()
        .values_list(
            "submission__bounty__lineage", "submission__bounty__suite", "submission__bounty__hardware"
        )
        .annotate(reached=Sum("log_ppm_bound"))
    )
    reached = {(lineage, suite, hardware): total for lineage, suite, hardware, total in sums}
    return {one.pk: reached.get((one.lineage_id, one.suite, one.hardware)) for one in bounties}


def _step(award: Award) -> Step:
    """Step of an award: the bound is the award's, the estimate its confirmation's."""
    run, bound = award.confirmation_run, award.log_ppm_bound
    assert run is not None and bound is not None, "a booked award is confirmed"
    estimate = run.verdict.log_ppm_estimate
    return Step(bound, bound if estimate is None else estimate)
