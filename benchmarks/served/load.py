"""Requests that run while trees are deployed: a few customers, each with one request after the other."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

import httpx

from benchmarks.report import say

CUSTOMERS = 3
MAX_TOKENS = 16
TIMEOUT_S = 120.0


@dataclass
class Load:
    """Streams answers until it is stopped. `failures` are in words, one for each request that did not end well."""

    url: str
    key: str
    model: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Load:
        for number in range(CUSTOMERS):
            thread = threading.Thread(target=self._ask_on, args=[number], daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def _ask_on(self, customer: int) -> None:
        auth = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(base_url=self.url, headers=auth, timeout=TIMEOUT_S) as http:
            for number in itertools.count():
                if self._over.is_set():
                    return
                failure = self._ask(http, f"Customer {customer} counts to {number}.")
                if failure:
                    say(f"a request failed: {failure}")
                with self._lock:
                    self.answered += not failure
                    self.failures += [failure] if failure else []

    def _ask(self, http: httpx.Client, question: str) -> str:
        """Stream one answer to its end; why it failed, empty if it did not."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": MAX_TOKENS,
            "stream": True,
        }
        try:
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                name = answer.headers.get("X-Request-Id", "without an id")
                lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
                if answer.status_code != httpx.codes.OK:
                    return f"status {answer.status_code}, request {name}"
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        if not lines or lines[-1] != "data: [DONE]":
            last = lines[-1][:200] if lines else "no line"
            return f"it ended with {last}, request {name}"
        return ""
