"""An engine's core with a clock and an executor of its own, whose tokens a test can work out without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.sampling import Sampler, SamplingSettings
from model.serving.engine.stats import StepReport
from model.serving.executors.base import Part
from model.serving.metering.core import EngineCore
from model.serving.metering.generation import EngineLimits, Event, Generation
from model.serving.metering.job import Job
from model.serving.node.served import ServedModel

STEP_NS = 1_000_003  # of device time per step: a prime, so that it does not split evenly
VOCABULARY = 300
UNSEEN = -1
GREEDY = SamplingSettings(temperature=0)


@dataclass
class CountingClock:
    now_ns: int = 0

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class HashExecutor:
    """Logits are a function of a sequence's tokens; it keeps those by block and takes `STEP_NS` for a step.

    They are a function of all of them, or of the last `window` ones and the length.
    """

    clock: CountingClock
    n_blocks: int = 64
    block_tokens: int = 4
    bytes_per_block: int = 1000
    fails_at: Callable[[Sequence[int]], bool] = lambda tokens: False
    nan_at: Callable[[Sequence[int]], bool] = lambda tokens: False
    window: int | None = None
    n_computed: int = 0
    n_copies: int = 0
    slots: dict[tuple[int, int], int] = field(default_factory=dict)

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        self.clock.now_ns += STEP_NS
        rows: list[NDArray[np.float32]] = []
        for part in parts:
            for i, token in enumerate(part.tokens):
                self.slots[self._slot(part, part.past + i)] = token
            self.n_computed += len(part.tokens)
            length = part.past + len(part.tokens)
            first = 0 if self.window is None else max(0, part.past - self.window + 1)
            tokens = [UNSEEN] * first
            tokens += [self.slots[self._slot(part, position)] for position in range(first, length)]
            if self.fails_at(tokens):
                raise RuntimeError("the device is gone")
            for n in range(length - part.n_logits + 1, length + 1):
                rows.append(self.logits(tokens[:n]))
        return np.stack(rows) if rows else np.empty((0, VOCABULARY), np.float32)

    def _slot(self, part: Part, position: int) -> tuple[int, int]:
        return part.blocks[position // self.block_tokens], position % self.block_tokens

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if self.nan_at(tokens):
            return np.full(VOCABULARY, np.nan, np.float32)
        unseen = 0 if self.window is None else max(0, len(tokens) - self.window)
        seed = hash((*[UNSEEN] * unseen, *tokens[unseen:])) % 2**31
        return np.random.default_rng(seed).standard_normal(VOCABULARY, np.float32)

    def copy_block(self, source: int, target: int) -> None:
        self.n_copies += 1
        for offset in range(self.block_tokens):
            if (source, offset) in self.slots:
                self.slots[target, offset] = self.slots[source, offset]


@dataclass
class Bench:
    """A core over the executor above, and all events of each job."""

    served: ServedModel
    limits: EngineLimits = field(default_factory=lambda: EngineLimits(max_running=4, step_tokens=16))
    executor_fields: dict[str, Any] = field(default_factory=dict)
    make_proposer: Any = None

    def __post_init__(self) -> None:
        self.clock = CountingClock()
        self.executor = HashExecutor(self.clock, **self.executor_fields)
        self.reports: list[StepReport] = []
        self.core = EngineCore(
            self.served, self.limits, self.executor, self.reports.append, self.make_proposer, self.clock
        )
        self.events: dict[Job, list[Event]] = {}

    def ask(self, prompt: Sequence[int], n_tokens: int = 5, **fields: Any) -> Job:
        asked = {"settings": GREEDY, "ignore_stop_tokens": True, **fields}
        generation = Generation(tuple(prompt), n_tokens, **asked)
        events: list[Event] = []
        job = Job(self.served, generation, events.append, self.clock.now_ns)
        self.events[job] = events
        self.core.add(job)
        return job

    def run(self, max_steps: int = 1000) -> None:
        for _ in range(max_steps):
            if not self.core.has_work:
                return
            self.core.step()
        raise AssertionError("it does not end")

    def tokens(self, job: Job, answer: int = 0) -> list[int]:
        return [e.chosen.token for e in self.events[job] if e.answer == answer and e.chosen is not None]

    def last(self, job: Job) -> Event:
        assert [event.is_last for event in self.events[job]] == [False] * (len(self.events[job]) - 1) + [True]
        return self.events[job][-1]

    def plain(self, prompt: Sequence[int], n_tokens: int, sampler: Sampler | None = None) -> list[int]:
        """What decoding one token after the other gives, without an engine."""
        sampler = sampler or Sampler(GREEDY)
        tokens = list(prompt)
        for _ in range(n_tokens):
            tokens.append(sampler(self.executor.logits(tokens)).token)
        return tokens[len(prompt) :]


class Guesses:
    """Knows the answer, and is at every fifth place."""

    def __init__(self, executor: HashExecutor) -> None:
        self.executor = executor

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        tokens = list(tokens)
        start = len(tokens)
        for _ in range(n):
            best = int(self.executor.logits(tokens).argmax())
            tokens.append(best if len(tokens) % 5 else 0)
        return tokens[start:]


def speculating(served: ServedModel, **fields: Any) -> Bench:
    bench = Bench(served, EngineLimits(max_running=3, step_tokens=16, max_drafts=3), **fields)
    bench.core.make_proposer = lambda sampler, blocks, n_running: Guesses(bench.executor)
    return bench
