"""Runs many generations at once on one model: continuous batching on one worker thread.

Each step carries one token of every sequence that decodes and chunks of the prompts that are still being read, in
order of arrival, so that a long prompt delays others by one chunk at most. Requests wait in a bounded queue until
a place and cache memory are free. Knows nothing of HTTP, chat or prices.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from torch import Tensor

from model.sampling import Sampler, SamplingSettings
from model.serving.cache import SequenceCache
from model.serving.served import ServedModel
from model.serving.text import TextStream
from model.serving.usage import DeviceMeter, RequestMeter, Usage

log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """The queue is full: try again later."""


class EngineStoppedError(Exception):
    """The engine is shutting down and takes nothing new."""


class Finish(StrEnum):
    STOP = "stop"  # the model ended its answer, or a stop string appeared
    LENGTH = "length"  # max_tokens are used up
    CANCELLED = "cancelled"  # the caller no longer wants it
    ERROR = "error"  # the step that computed it failed


@dataclass(frozen=True)
class Generation:
    """What is asked for. `prompt` and `max_tokens` together must fit the model's context."""

    prompt: tuple[int, ...]
    max_tokens: int
    settings: SamplingSettings
    stop: tuple[str, ...] = ()
    ignore_stop_tokens: bool = False


@dataclass(frozen=True)
class Event:
    """One more token's settled text (often empty), or the end."""

    text: str
    usage: Usage
    finish: Finish | None = None


Listener = Callable[[Event], None]  # called on the engine's thread; must not block


@dataclass(frozen=True)
class EngineLimits:
    max_running: int = 8
    max_waiting: int = 64
    chunk_tokens: int = 128  # of prompts, per step
    max_cache_bytes: int = 2 << 30


class Job:
    """One generation on its way through the engine."""

    def __init__(self, served: ServedModel, generation: Generation, listener: Listener) -> None:
        transformer = served.transformer
        self.generation = generation
        self.listener = listener
        self.cache = SequenceCache(transformer.config, transformer.dtype, transformer.device)
        self.cache_bytes_at_most = self.cache.bytes_for(len(generation.prompt) + generation.max_tokens)
        self.meter = RequestMeter(len(generation.prompt), time.monotonic_ns())
        self.sampler = Sampler(generation.settings, prompt=generation.prompt)
        self.text = TextStream(served.tokenizer.token_bytes, generation.stop)
        self.unread = list(generation.prompt)  # tokens that the cache does not hold yet
        self.is_cancelled = False

    @property
    def is_decoding(self) -> bool:
        return self.meter.completion_tokens > 0


@dataclass
class Engine:
    """Start it, submit to it from any thread, stop it."""

    served: ServedModel
    limits: EngineLimits = field(default_factory=EngineLimits)
    on_death: Callable[[Exception], None] | None = (
        None  # told when the thread ends by a bug; nothing runs then
    )

    def __post_init__(self) -> None:
        self.device = DeviceMeter()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends all generations as cancelled and the thread with them."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        return len(self._running)

    def submit(self, generation: Generation, listener: Listener) -> Job:
        """Queues a generation. Raises QueueFullError or EngineStoppedError, ValueError where it cannot fit the context."""
        max_context = self.served.max_context
        if not generation.prompt or generation.max_tokens < 1:
            raise ValueError("a generation needs a prompt and at least one token to generate")
        if len(generation.prompt) + generation.max_tokens > max_context:
            raise ValueError(f"prompt and max_tokens exceed the context of {max_context} tokens")
        job = Job(self.served, generation, listener)
        with self._changed:
            if self._is_stopping or not self._thread.is_alive():
                raise EngineStoppedError("the engine is shutting down")
            if len(self._waiting) >= self.limits.max_waiting:
                raise QueueFullError(f"{len(self._waiting)} requests are waiting already")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Ends a generation before the next step; harmless when it has already ended."""
        with self._changed:
            job.is_cancelled = True
            self._changed.notify()

    # -- on the engine's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # nobody may wait for a thread that is gone
            log.exception("the engine's thread failed")
            with self._changed:
                self._is_stopping = True
                orphans = self._take_cancelled()
            for job in orphans:
                self._end(job, Finish.ERROR)
            if self.on_death is not None:
                self.on_death(error)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._is_stopping):
                    self._changed.wait()
                ended = self._take_cancelled()
                if not self._is_stopping:
                    self._admit()
            for job in ended:
                self._end(job, Finish.CANCELLED)
            if self._is_stopping:
                return
            if self._running:
                self._step()

    def _take_cancelled(self) -> list[Job]:
        cancelled = [job for job in (*self._waiting, *self._running) if job.is_cancelled or self._is_stopping]
        if cancelled:
            self._waiting = deque(job for job in self._waiting if job not in cancelled)
            self._running = [job for job in self._running if job not in cancelled]
        return cancelled

    def _admit(self) -> None:
        """First come, first served, while there are places and cache for the longest possible answer."""
        reserved = sum(job.cache_bytes_at_most for job in self._running)
        while self._waiting and len(self._running) < self.limits.max_running:
            reserved += self._waiting[0].cache_bytes_at_most
            if self._running and reserved > self.limits.max_cache_bytes:
                return
            job = self._waiting.popleft()
            job.meter.started(time.monotonic_ns())
            self._running.append(job)

    def _step(self) -> None:
        parts = self._schedule()
        started_ns = time.monotonic_ns()
        try:
            for job, tokens in parts:
                job.cache.reserve(len(tokens))
                job.meter.holds_cache(job.cache.n_bytes, started_ns)
            logits_NV = self.served.transformer.step([(job.cache, tokens) for job, tokens in parts])
            chosen = [
                self._choose(job, logits_V) if len(tokens) == len(job.unread) else None
                for (job, tokens), logits_V in zip(parts, logits_NV, strict=True)
            ]
        except Exception:  # whatever a patched stack raises must not end the node
            log.exception("a step with %d sequences failed", len(parts))
            for job, _ in parts:
                self._running.remove(job)
                self._end(job, Finish.ERROR)
            return
        now_ns = time.monotonic_ns()
        self.device.step(now_ns - started_ns, [(job.meter, len(tokens)) for job, tokens in parts])
        for (job, tokens), token in zip(parts, chosen, strict=True):
            job.cache.advance(len(tokens))
            del job.unread[: len(tokens)]
            if token is Finish.ERROR:
                self._running.remove(job)
                self._end(job, Finish.ERROR)
            elif token is not None:
                self._take_token(job, token, now_ns)

    def _choose(self, job: Job, logits_V: Tensor) -> int | Literal[Finish.ERROR]:
        """The sequence's next token; logits that are not finite end only the sequence that they belong to."""
        try:
            return job.sampler(logits_V).token
        except FloatingPointError:
            log.exception("a sequence has no usable logits")
            return Finish.ERROR

    def _schedule(self) -> list[tuple[Job, list[int]]]:
        """Who takes part in the next step, with which new tokens."""
        parts: list[tuple[Job, list[int]]] = []
        budget = self.limits.chunk_tokens
        for job in self._running:
            tokens = job.unread if job.is_decoding else job.unread[:budget]
            if tokens:
                parts.append((job, list(tokens)))
            if not job.is_decoding:
                budget -= len(tokens)
        return parts

    def _take_token(self, job: Job, token: int, now_ns: int) -> None:
        generation = job.generation
        job.meter.token(now_ns)
        finish = None
        text = ""
        if token in self.served.tokenizer.stop_tokens and not generation.ignore_stop_tokens:
            finish = Finish.STOP
        else:
            text = job.text.push(token)
            job.unread.append(token)
            if job.text.is_stopped:
                finish = Finish.STOP
            elif job.meter.completion_tokens == generation.max_tokens:
                finish = Finish.LENGTH
        if finish is not None:
            self._running.remove(job)
            self._end(job, finish, text)
        else:
            self._tell(job, Event(text, job.meter.read(now_ns)))

    def _end(self, job: Job, finish: Finish, text: str = "") -> None:
        now_ns = time.monotonic_ns()
        job.meter.ended(now_ns)
        if finish in (Finish.STOP, Finish.LENGTH):
            text += job.text.finish()
        self._tell(job, Event(text, job.meter.read(now_ns), finish))

    def _tell(self, job: Job, event: Event) -> None:
        try:
            job.listener(event)
        except Exception:  # a listener whose event loop is gone must not end the others' generations
            log.exception("a listener failed; its generation is cancelled")
            job.is_cancelled = True
