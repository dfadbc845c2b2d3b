"""The pay of one day of one model: what users paid from lots that count, and what of it each term earned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Q, QuerySet, Sum

from benchmarks.faults import fault_point
from benchmarks.sharing.references import Reference
from benchmarks.sharing.royalties import COUNTING_SOURCES, Claim, day_pay
from benchmarks.sharing.savings import Placed
from bounty.models import RoyaltyDay, RoyaltyPayment, RoyaltyTerm, SubmissionState
from bounty.services.bounties import step_id
from bounty.services.royalties.terms import NAMESPACE
from bounty.services.series.contents import Contents
from gainshare.accounts.once import claim
from gainshare.gateway.models import UsageRecord
from gainshare.gateway.prices.comparisons import before_by_line
from gainshare.gateway.prices.gains import savings_of
from gainshare.gateway.prices.references import reference_levels, saving_of
from gainshare.ledger import services as ledger
from gainshare.ledger.kinds import TransferKind, TransferState
from gainshare.ledger.models import PriceVersion, Transfer

COUNTING_LOTS = Q(from_account__source__in=COUNTING_SOURCES) & (
    ~Q(from_account__source="award") | Q(from_account__reference__startswith="award:")
)
"""Lots that count. An award's lot is also known by its reference, because a grant can call itself anything."""

CHUNK = 1000


def pay_day(*, model: str, day: date) -> RoyaltyDay:
    """Book the unvested royalties of one day, once. The caller makes sure that the day is over.

    A request belongs to the day on which it was settled. All of a day is one transaction.
    """
    start = datetime.combine(day, time(), UTC)
    with transaction.atomic():
        claim(uuid5(NAMESPACE, f"{model}:{day}"))
        done = RoyaltyDay.objects.filter(model=model, day=day).first()
        if done is not None:
            return done
        terms = {str(term.pk): term for term in terms_of_day(model, start)}
        claims, paid = _claims(list(terms.values()), model, start)
        earned = day_pay(claims, paid)
        _book({terms[pk]: amount for pk, amount in earned.items()}, day)
        fault_point("royalties.day_booked")
        return RoyaltyDay.objects.create(
            model=model,
            day=day,
            paid_microcredits=sum(paid.values()),
            royalties_microcredits=sum(earned.values()),
        )


def terms_of_day(model: str, start: datetime) -> QuerySet[RoyaltyTerm]:
    """Terms that run at some time of the day, without those of reversed gains."""
    end = start + timedelta(days=1)
    rows = RoyaltyTerm.objects.filter(model=model, starts_at__lt=end, ends_at__gt=start)
    rows = rows.exclude(submission__state=SubmissionState.REVERSED).exclude(ended_at__lte=start)
    return rows.select_related("submission__bounty__lineage", "person")


def _claims(terms: list[RoyaltyTerm], model: str, start: datetime) -> tuple[list[Claim], dict[int, int]]:
    """What each payer's tokens owe each term, and what each payer paid from lots that count."""
    before: dict[tuple[RoyaltyTerm, int, int], int] = defaultdict(int)
    paid: dict[int, int] = defaultdict(int)
    contents = {term.submission.bounty.lineage: None for term in terms}
    by_lineage = {lineage.pk: Contents(lineage) for lineage in contents}
    parts = _Parts(savings_of(model))
    for record, counted in _paid_requests(model, start):
        paid[record.user_id] += counted
        owing = [term for term in terms if _owes(record, term, by_lineage)]
        if owing:
            lines = before_by_line(record)
            for term in owing:
                amount = lines.get(term.line, 0) * counted // record.charged_microcredits
                before[term, record.user_id, parts.of(term, record.price)] += amount
    claims = [
        Claim(str(term.pk), term.person_id, payer, saving_ppm, term.share_ppm, amount)
        for (term, payer, saving_ppm), amount in before.items()
    ]
    return claims, dict(paid)


@dataclass
class _Parts:
    """Each term's part of what its deployment saves, in millionths of the reference prices of a version."""

    history: list[Placed]
    _references: dict[int, Reference] = field(default_factory=dict)
    _known: dict[tuple[UUID, int], int] = field(default_factory=dict)

    def of(self, term: RoyaltyTerm, price: PriceVersion) -> int:
        if (term.pk, price.pk) not in self._known:
            if price.pk not in self._references:
                self._references[price.pk] = reference_levels(price, self.history)
            saving = saving_of(self.history, str(term.deployment_id), term.line)
            part = self._references[price.pk].claim_ppm(saving, term.saving_ppm)
            self._known[term.pk, price.pk] = part
        return self._known[term.pk, price.pk]


def _owes(record: UsageRecord, term: RoyaltyTerm, contents: dict[int, Contents]) -> bool:
    """Whether the request was another person's, while the term ran, and answered by a tree with the gain in it."""
    at, ends = record.settled_at, min(term.ends_at, term.ended_at or term.ends_at)
    if at is None or not term.starts_at <= at < ends or record.user_id == term.person_id or not record.tree:
        return False
    return str(term.submission_id) in contents[term.submission.bounty.lineage_id].of(record.tree)


def _paid_requests(model: str, start: datetime) -> Iterator[tuple[UsageRecord, int]]:
    """The day's requests that were paid from lots that count, with how much of their charge was."""
    rows = UsageRecord.objects.filter(
        model=model,
        settled_at__gte=start,
        settled_at__lt=start + timedelta(days=1),
        charged_microcredits__gt=0,
    ).select_related("price")
    chunk: list[UsageRecord] = []
    for record in rows.order_by("pk").iterator(chunk_size=CHUNK):
        chunk.append(record)
        if len(chunk) == CHUNK:
            yield from _counted(chunk)
            chunk = []
    yield from _counted(chunk)


def _counted(records: list[UsageRecord]) -> Iterator[tuple[UsageRecord, int]]:
    legs = Transfer.objects.filter(
        COUNTING_LOTS,
        kind=TransferKind.USAGE,
        state=TransferState.POSTED,
        hold__in=[record.pk for record in records],
    )
    paid = dict(legs.order_by().values_list("hold").annotate(paid=Sum("posted_amount")))
    for record in records:
        if counted := paid.get(record.pk, 0):
            yield record, int(counted)


def _book(earned: dict[RoyaltyTerm, int], day: date) -> None:
    """One unvested royalty for each gain, and a payment for each of its terms."""
    by_gain: dict[tuple[str, str], list[tuple[RoyaltyTerm, int]]] = defaultdict(list)
    for term, amount in earned.items():
        by_gain[str(term.submission_id), term.model].append((term, amount))
    for (_, model), parts in sorted(by_gain.items()):
        first = parts[0][0]
        transfer_id = step_id(first.submission_id, f"royalty:{model}:{day}")
        ledger.book_royalty(
            transfer_id=transfer_id,
            user=first.person,
            amount_microcredits=sum(amount for _, amount in parts),
            reference=f"submission:{first.submission_id}",
            memo=f"Royalty for {day} of {model}, for {first.submission.bounty.short_name}",
        )
        RoyaltyPayment.objects.bulk_create(
            RoyaltyPayment(term=term, day=day, amount_microcredits=amount, transfer_id=transfer_id)
            for term, amount in parts
        )
