"""Seals waiting entries into the hash chain, in batches, outside of requests."""

from collections.abc import Sequence
from uuid import UUID

from django.db import transaction

from gainshare.accounts.once import claim
from gainshare.ledger.chain import GENESIS, SealedEntry, link_hash
from gainshare.ledger.models import Entry, Seal, Unsealed

BATCH = 10_000
SEALER = UUID("7d1c3a53-54d4-4a6d-8d5e-0b6f7c1f2f4e")


def seal_entries(*, batch: int = BATCH) -> int:
    """Seal every committed entry that waits; return their number. A lock serialises callers."""
    sealed = 0
    while True:
        with transaction.atomic():
            claim(SEALER)
            waiting = list(Unsealed.objects.order_by("pk").values_list("pk", flat=True)[:batch])
            if waiting:
                last = Seal.objects.order_by("-pk").first()
                previous = last.hash if last is not None else GENESIS
                Seal.objects.create(
                    entry_ids=waiting,
                    previous_hash=previous,
                    hash=link_hash(previous, sealed_entries(waiting)),
                )
        sealed += len(waiting)
        if len(waiting) < batch:
            return sealed


def sealed_entries(entry_ids: Sequence[int]) -> list[SealedEntry]:
    """The entries of one link, in their order; fewer if rows are missing."""
    rows = Entry.objects.filter(pk__in=entry_ids).values_list(
        "pk", "transfer_id", "transfer__kind", "account_id", "amount", "created_at"
    )
    found = {row[0]: SealedEntry(*row) for row in rows}
    return [found[pk] for pk in entry_ids if pk in found]
