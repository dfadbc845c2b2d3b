"""Load for an elastic stack: clients that stream without a pause, and what became of each of their requests."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

from gainshare.cli.client import Site
from gainshare.cli.demo.people import Person, contributor
from tests.acceptance.running_stack import Stack

CREDITS_MICROCREDITS = 1_000_000_000
ENDED, CUT, FAILED = "ended", "cut", "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client saw of one request: ended, cut after its first token, or failed without one."""

    kind: str
    at: float
    request_id: str = ""
    tokens: int = 0
    code: str = ""
    message: str = ""


def customer(stack: Stack, name: str) -> Person:
    """A contributor with credits enough for the run."""
    person = contributor(stack.url, f"{name}-{uuid.uuid4().hex[:8]}")
    admin = Site(stack.url, stack.key)
    amount = {"amount_microcredits": CREDITS_MICROCREDITS, "memo": "load"}
    admin.post("treasury/fund/", {"transfer_id": str(uuid.uuid4()), **amount})
    admin.post(
        "grants/",
        {"transfer_id": str(uuid.uuid4()), "username": person.name, "source": "starter", **amount},
    )
    return person


@dataclass
class Load:
    """As many clients as `clients` says at the moment; each sends its next request `pause_s` after its last one."""

    stack: Stack
    people: list[Person]
    clients: int = 0
    pause_s: float = 0.0
    max_tokens: int = 380
    outcomes: list[Outcome] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ends: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, most: int) -> None:
        """Start `most` clients, of which only the first `clients` send."""
        for number in range(most):
            thread = threading.Thread(target=self._client, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def set(self, clients: int, *, pause_s: float = 0.0) -> None:
        self.clients, self.pause_s = clients, pause_s

    def stop(self) -> None:
        """Let every client finish what it has begun."""
        self._ends.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client still waits for an answer"

    def counted(self) -> Counter[str]:
        with self._lock:
            return Counter(outcome.kind for outcome in self.outcomes)

    def of_kind(self, kind: str) -> list[Outcome]:
        with self._lock:
            return [outcome for outcome in self.outcomes if outcome.kind == kind]

    def ask(self, on_first: Callable[[str], None]) -> Outcome:
        """One more request, of the first client's account; `on_first` gets its id when its first token has come."""
        with self._openai(0) as client:
            outcome = one_request(client, random.Random(), self.max_tokens, on_first)
        with self._lock:
            self.outcomes.append(outcome)
        return outcome

    def _client(self, number: int) -> None:
        rng = random.Random(number)
        with self._openai(number) as client:
            while not self._ends.is_set():
                if number >= self.clients:
                    self._ends.wait(0.1)
                    continue
                outcome = one_request(client, rng, self.max_tokens)
                with self._lock:
                    self.outcomes.append(outcome)
                if self.pause_s:
                    self._ends.wait(self.pause_s)

    def _openai(self, number: int) -> openai.OpenAI:
        person = self.people[number % len(self.people)]
        return openai.OpenAI(base_url=f"{self.stack.url}/v1", api_key=person.key, max_retries=0)


def one_request(
    client: openai.OpenAI,
    rng: random.Random,
    max_tokens: int,
    on_first: Callable[[str], None] = lambda request_id: None,
) -> Outcome:
    """One streamed answer, read to its end."""
    request_id, chunks, tokens, at = "", 0, 0, time.monotonic()
    try:
        answer = client.chat.completions.with_raw_response.create(
            model="tiny",
            messages=[{"role": "user", "content": "x" * rng.randrange(20, 80)}],
            max_tokens=max_tokens,
            stream=True,
        )
        request_id = answer.headers.get("x-gainshare-request-id", "")
        for chunk in answer.parse():
            if not chunks:
                on_first(request_id)
            chunks += 1  # the first ones come together with the first token
            tokens += sum(1 for choice in chunk.choices if choice.delta.content)
    except (openai.OpenAIError, httpx.HTTPError) as error:
        kind = CUT if chunks else FAILED
        return Outcome(kind, at, request_id, tokens, _code_of(error), str(error)[:300])
    return Outcome(ENDED, at, request_id, tokens)


def _code_of(error: Exception) -> str:
    body: Any = getattr(error, "body", None)
    return str(body.get("code", "")) if isinstance(body, dict) else type(error).__name__


def eventually(condition: Callable[[], Any], *, within_s: float, what: Callable[[], str]) -> Any:
    """The first true value of `condition`; fails with what `what` says then."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    raise AssertionError(f"not within {within_s} s: {what()}")
