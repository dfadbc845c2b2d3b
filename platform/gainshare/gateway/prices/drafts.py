"""What the last month's requests would have cost under prices that are not published.

Each request is billed again from its own counts. Rows from before hours were counted cost the dearest hour, and no
memory.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gainshare.gateway.models import UsageRecord
from gainshare.gateway.services import price_bill, recorded
from gainshare.ledger.errors import InvalidAmount, Unpriced
from gainshare.ledger.price_book import active_price, earliest_start
from gainshare.ledger.pricing import Prices, PriceTable, check_terms, rises
from gainshare.ledger.services import MAX_MICROCREDITS

MONTH = timedelta(days=30)
MOST_REQUESTS = 100_000  # the newest of them, so that a page is answered in seconds


@dataclass(frozen=True, slots=True)
class ItemCost:
    """One item of all bills in micro-credits: as it was, and under the draft."""

    item: str
    billed_microcredits: int
    drafted_microcredits: int


@dataclass(frozen=True, slots=True)
class DraftCost:
    """The requests of a month under a draft. `rises` are its terms that can make a bill dearer than today's price."""

    model: str
    since: datetime
    until: datetime
    requests: int
    is_complete: bool
    without_hours: int
    billed_microcredits: int
    drafted_microcredits: int
    dearer_requests: int
    items: tuple[ItemCost, ...]
    rises: tuple[str, ...]
    effective_at: datetime

    @property
    def difference_microcredits(self) -> int:
        return self.drafted_microcredits - self.billed_microcredits


def draft_cost(*, model: str, table: PriceTable, now: datetime) -> DraftCost:
    """Bill the last month's ended requests to `model` under `table`. Raises InvalidAmount. Publishes nothing."""
    try:
        check_terms(table, most=MAX_MICROCREDITS)
    except ValueError as error:
        raise InvalidAmount(str(error)) from None
    since = now - MONTH
    ended = UsageRecord.objects.filter(model=model, created_at__gte=since, finished_at__isnull=False)
    newest = ended.order_by("-created_at")[: MOST_REQUESTS + 1]
    was: dict[str, int] = {}
    drafted: dict[str, int] = {}
    requests = dearer = without_hours = 0
    is_complete = True
    for record in newest.iterator(chunk_size=2000):
        if requests == MOST_REQUESTS:
            is_complete = False
            break
        requests += 1
        without_hours += record.prompt_hour is None and record.counted_prompt_tokens > 0
        for line in record.bill_lines:
            was[line["item"]] = was.get(line["item"], 0) + line["amount"]
        priced = price_bill(recorded(record), table)
        dearer += priced.total > record.billed_microcredits
        for each in priced.lines:
            drafted[each.item] = drafted.get(each.item, 0) + each.amount
    return DraftCost(
        model=model,
        since=since,
        until=now,
        requests=requests,
        is_complete=is_complete,
        without_hours=without_hours,
        billed_microcredits=sum(was.values()),
        drafted_microcredits=sum(drafted.values()),
        dearer_requests=dearer,
        items=tuple(ItemCost(item, was.get(item, 0), drafted.get(item, 0)) for item in {**was, **drafted}),
        rises=_rises(model, table, now),
        effective_at=earliest_start(model=model, table=table, now=now),
    )


def _rises(model: str, table: Prices, now: datetime) -> tuple[str, ...]:
    try:
        return rises(table, active_price(model, now))
    except Unpriced:
        return ()
