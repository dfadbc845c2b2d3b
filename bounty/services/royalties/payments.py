"""What a contributor has been paid: awards and royalties by gain, and royalties by day."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import OuterRef, Q, QuerySet, Subquery, Sum

from bounty.models import Award, AwardRole, AwardState, RoyaltyPayment, RoyaltyTerm, Submission
from gainshare.accounts.models import User
from gainshare.ledger.kinds import TransferKind, TransferState
from gainshare.ledger.models import Transfer

MOST_GAINS = 100
PAID = (AwardState.UNVESTED, AwardState.VESTED)


@dataclass(frozen=True, slots=True)
class GainPay:
    """One gain's award, and its royalties so far, in micro-credits.

    `runs_until` is None while none of its terms runs; `was_served` says whether it ever had one.
    """

    submission: Submission
    award_microcredits: int
    royalties_microcredits: int
    was_served: bool
    runs_until: datetime | None


def payments_of(person: User) -> QuerySet[RoyaltyPayment]:
    """The person's payments with the state of their transfers, the newest day first."""
    state = Transfer.objects.filter(pk=OuterRef("transfer_id")).values("state")[:1]
    rows = RoyaltyPayment.objects.filter(term__person=person).annotate(state=Subquery(state))
    return rows.select_related("term__submission__bounty").order_by("-day", "term", "pk")


def gains_of(person: User, now: datetime) -> list[GainPay]:
    """The person's newest gains that were awarded or served, by when they were made."""
    by_gain: dict[UUID, list[RoyaltyTerm]] = defaultdict(list)
    for term in RoyaltyTerm.objects.filter(person=person):
        by_gain[term.submission_id].append(term)
    awarded = Award.objects.filter(submission__submitter=person, role=AwardRole.GAIN, state__in=PAID)
    own = Submission.objects.filter(Q(pk__in=list(by_gain)) | Q(pk__in=awarded.values("submission")))
    voided = Transfer.objects.filter(kind=TransferKind.ROYALTY, state=TransferState.VOIDED)
    kept = RoyaltyPayment.objects.filter(term__person=person).exclude(transfer_id__in=voided.values("pk"))
    sums = kept.order_by().values_list("term__submission").annotate(paid=Sum("amount_microcredits"))
    paid: dict[UUID, int] = dict(sums)
    return [
        GainPay(
            submission,
            _award(submission),
            paid.get(submission.pk, 0),
            submission.pk in by_gain,
            _runs_until(by_gain.get(submission.pk, []), now),
        )
        for submission in own.select_related("bounty").order_by("-sealed_at")[:MOST_GAINS]
    ]


def _award(submission: Submission) -> int:
    awards = Award.objects.filter(submission=submission, state__in=PAID)
    return int(awards.aggregate(total=Sum("amount_microcredits", default=0))["total"])


def _runs_until(terms: list[RoyaltyTerm], now: datetime) -> datetime | None:
    return max((term.ends_at for term in terms if term.ended_at is None and term.ends_at > now), default=None)
