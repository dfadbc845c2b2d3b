"""The product's own traces: sessions whose prompts grow, system prompts, heavy tails, times of day and week. Seeded.

A test compares lengths, rates and shared prefixes with those of published traces.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random

from gainshare.capacity.traces.arrivals import Rates, arrivals
from gainshare.capacity.traces.requests import TraceRequest
from gainshare.capacity.traces.workload import LONG_CONTEXT, LogNormal, Week, Workload

STEP_S = 600.0


@dataclass(frozen=True, slots=True)
class GeneratedTrace:
    """About ``requests`` requests within ``days`` days, generated at each iteration, always the same ones."""

    seed: int
    days: float
    requests: int
    cv: float
    workload: Workload
    week: Week
    block_tokens: int

    @property
    def name(self) -> str:
        return f"generated {self.workload.name} (seed {self.seed})"

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def rates(self) -> Rates:
        """Requests per second in steps of ten minutes."""
        random = Random(f"{self.seed}:rates")
        steps = max(1, math.ceil(self.days * 86_400 / STEP_S))
        step_s = self.days * 86_400 / steps
        normal = LogNormal(1_000_000, self.week.noise, 1 << 60)
        memory = self.week.noise_memory
        slow = 0.0
        shape: list[float] = []
        for step in range(steps):
            fresh = math.log(normal.draw(random) / 1_000_000)
            slow = memory * slow + math.sqrt(1 - memory**2) * fresh
            shape.append(self.week.factor(step * step_s) * math.exp(slow))
        return Rates(step_s, tuple(shape)).scaled(self.requests)

    def __iter__(self) -> Iterator[TraceRequest]:
        sessions = self.rates().scaled(self.requests / self.workload.turns)
        starts = arrivals(sessions, random=Random(f"{self.seed}:arrivals"), cv=self.cv)
        return _Sessions(self.workload, self.block_tokens, self.seed).requests(starts, self.days * 86_400)


def generate(
    *,
    seed: int = 0,
    days: float = 1.0,
    requests: int = 20_000,
    cv: float = 1.0,
    workload: Workload = LONG_CONTEXT,
    week: Week | None = None,
    block_tokens: int | None = None,
) -> GeneratedTrace:
    """Generate a trace.

    ``cv`` is the coefficient of variation of the gaps between sessions; 1 is Poisson. ``block_tokens`` replaces the
    workload's size of blocks. Raises ValueError for a trace of no time or no requests, or too many.
    """
    block_tokens = workload.block_tokens if block_tokens is None else block_tokens
    if not (math.isfinite(days) and 0 < days <= 366) or not 1 <= requests <= 10_000_000 or block_tokens < 1:
        raise ValueError("a trace needs some time (up to 366 days), requests (up to 10 million) and blocks")
    return GeneratedTrace(seed, days, requests, cv, workload, week or Week(), block_tokens)


@dataclass(slots=True)
class _Session:
    """What a session has sent so far. ``blocks`` are the whole blocks of its latest prompt."""

    account: int
    is_single: bool
    turns: int = 0
    tokens: int = 0
    blocks: list[int] = field(default_factory=list)


class _Sessions:
    """Sessions in progress, in the order of their next requests."""

    def __init__(self, workload: Workload, block_tokens: int, seed: int) -> None:
        self._workload = workload
        self._block_tokens = block_tokens
        self._random = Random(f"{seed}:sessions")
        self._ids = count()
        self._systems = [self._system(Random(f"{seed}:account {n}")) for n in range(workload.accounts)]

    def _system(self, random: Random) -> tuple[int, list[int]]:
        """Tokens and whole blocks of an account's system prompt; none for some accounts."""
        if random.random() >= self._workload.system_share:
            return 0, []
        tokens = self._workload.system.draw(random)
        return tokens, [next(self._ids) for _ in range(tokens // self._block_tokens)]

    def requests(self, starts: Iterator[float], until_s: float) -> Iterator[TraceRequest]:
        due: list[tuple[float, int, _Session]] = []
        order = count()
        for start in starts:
            yield from self._turns(due, order, min(start, until_s))
            heappush(due, (start, next(order), self._begin()))
        yield from self._turns(due, order, until_s)

    def _turns(
        self, due: list[tuple[float, int, _Session]], order: Iterator[int], until_s: float
    ) -> Iterator[TraceRequest]:
        """All requests before ``until_s``; what comes after it stays in ``due``."""
        while due and due[0][0] < until_s:
            at, _, session = heappop(due)
            request = self._request(session, at)
            yield request
            if not session.is_single and self._random.random() < self._workload.another_turn:
                session.tokens += request.output_tokens
                pause = self._workload.think_s.draw(self._random) * (0.5 + self._random.random())
                heappush(due, (at + pause, next(order), session))

    def _begin(self) -> _Session:
        # Few accounts send most requests: the logarithm of an account's rank is uniform, as Zipf's law says.
        account = int(self._workload.accounts ** self._random.random()) - 1
        session = _Session(account, is_single=self._random.random() < self._workload.single_share)
        if not session.is_single:
            session.tokens, blocks = self._systems[account]
            session.blocks = list(blocks)
        return session

    def _request(self, session: _Session, at_s: float) -> TraceRequest:
        workload = self._workload
        if session.is_single:
            grown = workload.single
        elif session.turns == 0:
            grown = workload.opening
        else:
            grown = workload.message
        session.tokens = min(workload.context_limit, session.tokens + grown.draw(self._random))
        while len(session.blocks) < session.tokens // self._block_tokens:
            session.blocks.append(next(self._ids))
        session.turns += 1
        is_short = self._random.random() < workload.short_output_share
        output = (workload.short_output if is_short else workload.output).draw(self._random)
        return TraceRequest(at_s, session.tokens, output, tuple(session.blocks), session.account)
