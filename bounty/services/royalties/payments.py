"""What a contributor has been paid: awards and royalties by gain, and royalties by day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import OuterRef, QuerySet, Subquery, Sum

from bounty.models import COUNTING, Award, RoyaltyPayment, RoyaltyTerm, Submission
from gainshare.accounts.models import User
from gainshare.ledger.kinds import TransferState
from gainshare.ledger.models import Transfer


@dataclass(frozen=True, slots=True)
class GainPay:
    """One gain's award, and its royalties so far, in micro-credits; `runs_until` is None once none of its terms runs."""

    submission: Submission
    award_microcredits: int
    royalties_microcredits: int
    runs_until: datetime | None


def payments_of(person: User) -> QuerySet[RoyaltyPayment]:
    """The person's payments with the state of their transfers, the newest day first."""
    state = Transfer.objects.filter(pk=OuterRef("transfer_id")).values("state")[:1]
    rows = RoyaltyPayment.objects.filter(term__person=person).annotate(state=Subquery(state))
    return rows.select_related("term__submission__bounty").order_by("-day", "term", "pk")


def gains_of(person: User, now: datetime) -> list[GainPay]:
    """The person's gains that have a term, the newest first."""
    terms = RoyaltyTerm.objects.filter(person=person).select_related("submission__bounty")
    by_gain: dict[Submission, list[RoyaltyTerm]] = {}
    for term in terms.order_by("-starts_at", "pk"):
        by_gain.setdefault(term.submission, []).append(term)
    paid = dict(
        payments_of(person)
        .exclude(state=TransferState.VOIDED)
        .order_by()
        .values_list("term__submission")
        .annotate(paid=Sum("amount_microcredits"))
    )
    return [
        GainPay(submission, _award(submission), int(paid.get(submission.pk, 0)), _runs_until(own, now))
        for submission, own in by_gain.items()
    ]


def _award(submission: Submission) -> int:
    awards = Award.objects.filter(submission=submission, state__in=COUNTING)
    return int(awards.aggregate(total=Sum("amount_microcredits", default=0))["total"])


def _runs_until(terms: list[RoyaltyTerm], now: datetime) -> datetime | None:
    return max((term.ends_at for term in terms if term.ended_at is None and term.ends_at > now), default=None)
