"""Requests that arrive while others are being answered, and when each of their tokens came.

A request arrives once all of them together have produced `after` tokens: so a fast engine meets the same situation as a
slow one. Times are nanoseconds of this process's monotonic clock. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any


class Record:
    """`requests`: {"prompt": [ids], "n_new": int, "after": int} each, in order of arrival."""

    def __init__(self, requests: Sequence[dict[str, Any]]) -> None:
        self.requests = list(requests)
        self.n_produced = self._n_arrived = 0
        self._n_wanted: int = sum(request["n_new"] for request in self.requests)
        self._submitted_ns: list[int] = []
        self._tokens: list[list[int]] = [[] for _ in requests]
        self._times_ns: list[list[int]] = [[] for _ in requests]

    def arrived(self) -> list[tuple[int, dict[str, Any]]]:
        """The requests that have arrived since the last call, with their numbers; they count as submitted now."""
        new: list[tuple[int, dict[str, Any]]] = []
        while self._n_arrived < len(self.requests):
            request = self.requests[self._n_arrived]
            if request["after"] > self.n_produced:
                break
            new.append((self._n_arrived, request))
            self._submitted_ns.append(time.monotonic_ns())
            self._n_arrived += 1
        return new

    def token(self, number: int, token: int, now_ns: int) -> bool:
        """One more token of a request; whether it was its last. What comes beyond `n_new` is not counted."""
        n_new: int = self.requests[number]["n_new"]
        if len(self._tokens[number]) < n_new:
            self._tokens[number].append(token)
            self._times_ns[number].append(now_ns)
            self.n_produced += 1
        return len(self._tokens[number]) >= n_new

    def count(self, number: int) -> int:
        """The tokens of a request that have come so far."""
        return len(self._tokens[number])

    @property
    def is_done(self) -> bool:
        return self.n_produced == self._n_wanted

    def answer(self) -> dict[str, Any]:
        """Times and tokens of which the parent computes rates. Raises RuntimeError where the engine has ended early."""
        if not self.is_done:
            raise RuntimeError(f"the engine stopped after {self.n_produced} tokens: {self._tokens}")
        rows = zip(self._submitted_ns, self._times_ns, self._tokens, strict=True)
        return {
            "requests": [
                {"submitted_ns": submitted, "times_ns": times, "tokens": tokens}
                for submitted, times, tokens in rows
            ]
        }
