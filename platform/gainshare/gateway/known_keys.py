"""Cache of recently valid API keys, so that work for them can begin while they are checked again.

It grants nothing: every request is authenticated by the database before credits are held. Only hashes are
stored, in this process.
"""

import hashlib
import time
from collections import OrderedDict

REMEMBERED_S = 60.0
MOST = 10_000


class KnownKeys:
    """Times at which keys were last valid; the oldest are dropped when there are too many."""

    def __init__(self) -> None:
        self._good_at: OrderedDict[bytes, float] = OrderedDict()

    def has(self, raw_key: str) -> bool:
        """Whether the key was valid within the last minute."""
        good_at = self._good_at.get(_digest(raw_key))
        return good_at is not None and time.monotonic() - good_at < REMEMBERED_S

    def remember(self, raw_key: str) -> None:
        digest = _digest(raw_key)
        self._good_at[digest] = time.monotonic()
        self._good_at.move_to_end(digest)
        if len(self._good_at) > MOST:
            self._good_at.popitem(last=False)

    def forget(self, raw_key: str) -> None:
        self._good_at.pop(_digest(raw_key), None)


def _digest(raw_key: str) -> bytes:
    return hashlib.sha256(raw_key.encode()).digest()
