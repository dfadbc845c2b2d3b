"""A simulated node: answers share its engine's steps, prompts are read one after the other."""

from __future__ import annotations

import enum
import heapq
import math
from collections import OrderedDict, deque

from gainshare.capacity.simulation.rates import Rates

ALMOST = 1e-6  # of a token: ends that close to each other are one event


class State(enum.Enum):
    """State of a simulated node; ``LEAVING`` has a notice of preemption. Only a ready node takes requests."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    DRAINING = "draining"
    GONE = "gone"


class PrefixCache:
    """The blocks that a node keeps, the least recently used one is dropped first."""

    __slots__ = ("blocks", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.blocks: OrderedDict[int, None] = OrderedDict()

    def hits(self, prefix: tuple[int, ...]) -> int:
        """How many blocks at the beginning of ``prefix`` are kept."""
        found = 0
        for block in prefix:
            if block not in self.blocks:
                break
            found += 1
        return found

    def keep(self, prefix: tuple[int, ...]) -> None:
        blocks = self.blocks
        for block in reversed(prefix):  # so that a prefix's beginning outlives its end
            blocks[block] = None
            blocks.move_to_end(block)
        while len(blocks) > self.most:
            blocks.popitem(last=False)


class Node:
    """One device with its engine. The pool calls it at the times that it names; ``due_s`` is its next one, inf without any.

    ``progress`` counts the tokens that an answer would have got since the node began: an answer ends when that number
    reaches a known value, however the rate changed meanwhile.
    """

    __slots__ = (
        "begun_s",
        "cache",
        "due_s",
        "ends",
        "kind",
        "number",
        "progress",
        "progress_at_s",
        "prompts",
        "queue",
        "rates",
        "reading",
        "reading_since_s",
        "reading_steps",
        "reading_until_s",
        "running",
        "slots",
        "state",
        "version",
    )

    def __init__(self, number: int, kind: int, slots: int, rates: Rates, at_s: float, cache: int = 0) -> None:
        self.number, self.kind, self.slots, self.rates = number, kind, slots, rates
        self.begun_s = at_s
        self.state = State.STARTING
        self.running = 0
        self.progress, self.progress_at_s = 0.0, at_s
        self.ends: list[tuple[float, int]] = []
        self.prompts: deque[tuple[int, float, int]] = deque()
        self.queue: deque[int] = deque()
        self.reading = -1
        self.reading_steps = 0
        self.reading_since_s = self.reading_until_s = 0.0
        self.due_s = math.inf
        self.version = 0
        self.cache = PrefixCache(cache) if cache else None

    def admit(self, request: int, prompt_s: float, steps: int, at_s: float) -> None:
        """Give a slot to a request whose prompt takes ``prompt_s`` seconds of computing, in so many steps."""
        self.running += 1
        if self.reading >= 0:
            self.prompts.append((request, prompt_s, steps))
            return
        ends = self.ends
        if ends:
            rates = self.rates
            self.progress += (at_s - self.progress_at_s) / (rates.step_s + len(ends) * rates.sequence_s)
        self._read(request, prompt_s, steps, at_s)

    def _read(self, request: int, prompt_s: float, steps: int, at_s: float) -> None:
        rates = self.rates
        self.reading, self.reading_steps, self.reading_since_s = request, steps, at_s
        self.due_s = at_s + prompt_s + steps * (rates.step_s + len(self.ends) * rates.sequence_s)
        self.reading_until_s = self.due_s
        self.version += 1

    def work(self, at_s: float, output_tokens: list[int]) -> tuple[int, list[tuple[int, float]]]:
        """Do what is due now: the request that got its first token (-1: none), and those that ended, each with its time.

        While a prompt was read an answer got a token at each step, so it may have ended before; its slot is free only now.
        """
        ends, first = self.ends, self.reading
        since_s, before, step_s = at_s, self.progress, 0.0
        if first >= 0:
            since_s, step_s = self.reading_since_s, (at_s - self.reading_since_s) / self.reading_steps
            self.progress += self.reading_steps
            heapq.heappush(ends, (self.progress + output_tokens[first] - 1, first))
        else:
            self.progress = ends[0][0]
        self.progress_at_s = at_s
        reached = self.progress + ALMOST
        ended = []
        while ends and ends[0][0] <= reached:
            end, request = heapq.heappop(ends)
            ended.append((request, since_s + math.ceil(end - before - ALMOST) * step_s))
        self.running -= len(ended)
        if first >= 0:
            if self.prompts:
                self._read(*self.prompts.popleft(), at_s)
                return first, ended
            self.reading = -1
        self._plan(at_s)
        return first, ended

    def _plan(self, at_s: float) -> None:
        self.version += 1
        ends = self.ends
        if ends:
            rates = self.rates
            left = ends[0][0] - self.progress
            self.due_s = at_s + left * (rates.step_s + len(ends) * rates.sequence_s)
        else:
            self.due_s = math.inf

    def prompt_wait_s(self, at_s: float) -> float:
        """Seconds until all prompts that have a slot are read."""
        if self.reading < 0:
            return 0.0
        token_s = self.rates.token_s(len(self.ends) + 1)
        return self.reading_until_s - at_s + sum(s + n * token_s for _, s, n in self.prompts)

    def lost(self) -> tuple[list[int], list[int]]:
        """Requests of a node that is taken away: those without a first token, and those with one."""
        without = [self.reading] * (self.reading >= 0) + [prompt[0] for prompt in self.prompts]
        return [*without, *self.queue], [request for _, request in self.ends]
