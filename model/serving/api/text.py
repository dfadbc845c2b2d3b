"""Turn generated tokens into text, piece by piece: whole characters only, ended by stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """The text of one answer.

    Bytes of an unfinished character and text that may be the beginning of a stop string are held back until
    the next tokens decide. Bytes that are no UTF-8 at all become U+FFFD; an unfinished character at the end is
    dropped. A stop string itself is never part of the text.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self._token_bytes = token_bytes
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.is_stopped = False

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """Add a token and return the text that is final, often none; without `may_stop` no stop string begins in it."""
        if self.is_stopped:
            return ""
        self._held += self._decoder.decode(self._token_bytes(token))
        if not (self._stop and may_stop):
            return self._release(len(self._held))
        ends = [end for end in (self._held.find(stop) for stop in self._stop) if end >= 0]
        if ends:
            self.is_stopped = True
            return self._release(min(ends))
        return self._release(len(self._held) - self._unsettled())

    def finish(self) -> str:
        """Return the text that was held back; no more tokens follow."""
        return "" if self.is_stopped else self._release(len(self._held))

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text

    def _unsettled(self) -> int:
        """Length of the longest suffix of the held text that is a prefix of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
