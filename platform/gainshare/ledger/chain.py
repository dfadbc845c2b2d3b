"""Hash chain over entries. Each link hashes the previous link and its own entries, in order. Pure functions.

If an entry is changed, removed, added or moved to another link, every later hash differs.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

GENESIS = "0" * 64


@dataclass(frozen=True)
class SealedEntry:
    """The hashed data: an entry, and the kind and time of its transfer."""

    entry_id: int
    transfer_id: UUID
    kind: str
    account_id: int
    amount: int
    created_at: datetime

    @property
    def line(self) -> str:
        when = self.created_at.astimezone(UTC).isoformat(timespec="microseconds")
        return f"{self.entry_id} {self.transfer_id} {self.kind} {self.account_id} {self.amount} {when}\n"


def link_hash(previous_hash: str, entries: Iterable[SealedEntry]) -> str:
    """Hex SHA-256 over the previous hash and one line per entry."""
    digest = hashlib.sha256(f"{previous_hash}\n".encode())
    for entry in entries:
        digest.update(entry.line.encode())
    return digest.hexdigest()
