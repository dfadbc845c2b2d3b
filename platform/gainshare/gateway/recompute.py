"""Computes every charge again from its usage row and its price version, and says what differs.

A charge is right if the row's price version was the model's in force at its admission, the row's counts contradict
nothing, the bill made of them under that version is the stored one line by line, its hold is what that price bounds, and
the ledger took what the row says. Reads only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet

from gainshare.gateway.models import UsageRecord
from gainshare.gateway.services import price_bill, recorded
from gainshare.ledger.kinds import HoldState
from gainshare.ledger.models import Hold, PriceVersion
from gainshare.ledger.pricing import upper_bound

CHUNK = 1000

READING = timedelta(seconds=60)
"""How long before its admission a request's price may have been read: prompts are counted in between.

Also how far the clocks of the processes that publish and admit may differ.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a usage row or the ledger has, and what comes out of the row's counts and its price version."""

    request_id: str
    what: str
    stored: Any
    recomputed: Any


@dataclass(frozen=True, slots=True)
class Recomputation:
    """Number of ended requests, the sum of their bills and charges as recomputed, and what differs."""

    requests: int
    billed_microcredits: int
    charged_microcredits: int
    differences: tuple[Difference, ...]


def recompute(*, records: QuerySet[UsageRecord] | None = None) -> Recomputation:
    """Recompute the charges of `records`, all by default. Running requests have no bill yet and are left out."""
    chosen = UsageRecord.objects.all() if records is None else records
    ended = chosen.filter(finished_at__isnull=False).select_related("price").order_by("pk")
    versions: dict[str, list[PriceVersion]] | None = None
    differences: list[Difference] = []
    requests = billed = charged = 0
    for record, hold in _with_holds(ended):
        requests += 1
        if versions is None:  # once the rows are chosen, so that none of them has a version that was not read
            versions = _versions()
        _check_version(record, versions.get(record.model, ()), differences)
        try:
            total = _bill(record, differences)
        except (ValueError, TypeError) as error:
            differences.append(Difference(str(record.pk), "counts", str(error), "counts that can be billed"))
            continue
        billed += total
        charged += _charge(record, hold, total, differences)
    return Recomputation(requests, billed, charged, tuple(differences))


def _with_holds(ended: QuerySet[UsageRecord]) -> Iterator[tuple[UsageRecord, Hold | None]]:
    """Each record with its hold, which has the same id."""
    waiting: list[UsageRecord] = []
    for record in ended.iterator(chunk_size=CHUNK):
        waiting.append(record)
        if len(waiting) == CHUNK:
            yield from _joined(waiting)
            waiting = []
    yield from _joined(waiting)


def _joined(records: list[UsageRecord]) -> list[tuple[UsageRecord, Hold | None]]:
    holds = Hold.objects.in_bulk([record.pk for record in records])
    return [(record, holds.get(record.pk)) for record in records]


def _versions() -> dict[str, list[PriceVersion]]:
    """Each model's versions, in the order in which they supersede each other."""
    found: dict[str, list[PriceVersion]] = {}
    for version in PriceVersion.objects.order_by("effective_at", "pk"):
        found.setdefault(version.model, []).append(version)
    return found


def _check_version(
    record: UsageRecord, versions: Sequence[PriceVersion], differences: list[Difference]
) -> None:
    """Compare the row's version with the model's versions in force when the row was admitted, or up to READING before."""
    admitted_at = record.created_at
    # Of the model's versions, oldest first, those that took effect by then and were published.
    known = [
        one for one in versions if one.effective_at <= admitted_at and one.created_at <= admitted_at + READING
    ]
    settled = [
        place
        for place, one in enumerate(known)
        if max(one.effective_at, one.created_at) <= admitted_at - READING
    ]
    allowed = known[settled[-1] if settled else 0 :]
    if record.price_id not in [one.pk for one in allowed]:
        expected = " or ".join(map(_named, allowed)) or "no version was in force"
        differences.append(Difference(str(record.pk), "price", _named(record.price), expected))


def _named(version: PriceVersion) -> str:
    return f"version {version.pk} of {version.model}, in force from {version.effective_at.isoformat()}"


def _bill(record: UsageRecord, differences: list[Difference]) -> int:
    """The bill's total; raises ValueError or TypeError where the row's counts are none."""

    def compare(what: str, stored: Any, recomputed: Any) -> None:
        if stored != recomputed:
            differences.append(Difference(str(record.pk), what, stored, recomputed))

    metered = recorded(record)
    if not metered.prompt_tokens and metered.completion_tokens:
        raise ValueError("output was counted without its prompt")
    priced = price_bill(metered, record.price)
    compare("bill_lines", record.bill_lines, [line.as_json() for line in priced.lines])
    compare("billed_microcredits", record.billed_microcredits, priced.total)
    held = upper_bound(record.prompt_tokens, record.max_tokens, record.price)
    compare("hold_microcredits", record.hold_microcredits, held)
    return priced.total


def _charge(record: UsageRecord, hold: Hold | None, total: int, differences: list[Difference]) -> int:
    """What should have been charged, by the bill and by how the hold ended."""
    if record.settled_at is None:
        return 0
    is_paid = hold is not None and hold.state == HoldState.SETTLED
    due = min(total, record.hold_microcredits) if is_paid else 0
    if record.charged_microcredits != due:
        differences.append(
            Difference(str(record.pk), "charged_microcredits", record.charged_microcredits, due)
        )
    if hold is not None and hold.settled != due:
        differences.append(Difference(str(record.pk), "taken by the ledger", hold.settled, due))
    return due
