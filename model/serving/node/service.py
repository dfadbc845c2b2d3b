"""The bundled engine as a backend: prompts to tokens, limits, the engine's queue, and events to pieces. No HTTP in here."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from prometheus_client.metrics_core import Metric

from model.sampling import Constraint, SamplingError
from model.serving.api.chat import ChatError, Message
from model.serving.api.context import check_length, room_for
from model.serving.api.errors import ApiError, bad_value, not_now, too_late
from model.serving.api.logprobs import LogprobWriter
from model.serving.api.requests import Options, Prompt
from model.serving.engine.constrained import JSONGrammars
from model.serving.engine.expert_load import expert_load_of
from model.serving.executors.base import Executor
from model.serving.executors.choice import executor_for
from model.serving.metering.engine import Engine
from model.serving.metering.generation import (
    EngineLimits,
    EngineStoppedError,
    Event,
    Finish,
    Generation,
    Listener,
    QueueFullError,
)
from model.serving.node.backend import Ask, Piece, TokenCount
from model.serving.node.engine_metrics import StepTimes, expert_metrics
from model.serving.node.loading import check_answers
from model.serving.node.served import ServedModel
from model.serving.speculation.choice import proposers

log = logging.getLogger(__name__)

BUSY_RETRY_S = 2


class Service:
    """Backend of the bundled engine: one served model, called from an event loop.

    Raises LoadError for a model that computes non-finite values.
    """

    def __init__(
        self,
        served: ServedModel,
        limits: EngineLimits,
        on_death: Callable[[Exception], None] | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.served = served
        self._steps = StepTimes()
        computing = executor_for(served, limits, executor)
        check_answers(computing, served.transformer.config, served.name)
        observe, speculating = self._steps.observe, proposers(computing)
        self.engine = Engine(served, limits, on_death, computing, observe, speculating)
        self._experts = expert_load_of(computing, served.transformer)
        if self.max_context < served.max_context:
            log.warning(
                "the cache has %d tokens, fewer than the context of %s (%d): it limits prompt and answer",
                *(self.max_context, served.name, served.max_context),
            )
        self.engine.start()

    @property
    def name(self) -> str:
        return self.served.name

    @property
    def max_context(self) -> int:
        """Maximum tokens of prompt and answer: the model's context, or the whole cache if it is smaller."""
        pool = self.engine.pool
        return min(self.served.max_context, pool.n_blocks * pool.block_tokens)

    @property
    def is_alive(self) -> bool:
        return self.engine.is_alive

    def describe(self) -> dict[str, Any]:
        config = self.served.transformer.config
        return {
            "max_context": self.max_context,
            "total_parameters": config.total_parameters,
            "active_parameters": config.active_parameters,
            "metadata": dict(self.served.metadata),
        }

    def stats(self) -> dict[str, int]:
        engine, pool = self.engine, self.engine.pool
        return {
            "running": engine.n_running,
            "waiting": engine.n_waiting,
            "busy_ns": engine.device.busy_ns,
            "scheduling_ns": engine.stats.scheduling_ns,
            "steps": engine.stats.n_steps,
            "preemptions": engine.n_preemptions,
            "drafted_tokens": engine.stats.n_drafted,
            "accepted_tokens": engine.stats.n_accepted,
            "kv_blocks": pool.n_blocks,
            "kv_blocks_held": pool.n_held,
            "kv_blocks_idle": pool.n_idle,
            "kv_blocks_evicted": pool.n_evicted,
        }

    def collect(self) -> Iterable[Metric]:
        yield self._steps.collect()
        yield from expert_metrics(self._experts)

    async def check_ready(self) -> None:
        if not self.engine.is_alive:
            raise not_now("failed", "the engine has ended")

    async def count(self, prompt: Prompt) -> TokenCount:
        return TokenCount(len(await self._tokens_of(prompt)), self.max_context)

    async def start(self, ask: Ask) -> EngineRun:
        tokens = await self._tokens_of(ask.prompt)
        return EngineRun(self, await asyncio.to_thread(self._generation, tokens, ask), ask)

    async def _tokens_of(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt; long texts are encoded on another thread. Raises ApiError (400)."""
        return await asyncio.to_thread(self._encode, prompt)

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        tokenizer = self.served.tokenizer
        if isinstance(prompt, str):
            check_length(tokenizer, prompt, self.max_context, is_chat=False)
            return tuple(tokenizer.encode_prompt(prompt))
        messages = tuple(item for item in prompt if isinstance(item, Message))
        if messages:
            try:
                text = self.served.chat.render(messages)
            except ChatError as error:
                raise bad_value("messages", str(error)) from error
            check_length(tokenizer, text, self.max_context, is_chat=True)
            return tuple(tokenizer.encode(text))
        ids = tuple(item for item in prompt if isinstance(item, int))
        if not all(0 <= token < self._vocab_size for token in ids):
            raise bad_value("prompt", f"token ids must be between 0 and {self._vocab_size - 1}")
        return ids

    def _generation(self, tokens: tuple[int, ...], ask: Ask) -> Generation:
        """The engine's request. Raises ApiError (400) for one that does not fit the context or the vocabulary."""
        options = ask.options
        max_tokens = room_for(len(tokens), self.max_context, options, is_chat=ask.is_chat)
        try:
            options.settings.check_vocabulary(self._vocab_size)
        except SamplingError as error:
            raise bad_value(error.parameter, str(error)) from error
        self._check_ends(options, max_tokens)
        return Generation(
            tokens,
            max_tokens,
            options.settings,
            options.stop,
            options.ignore_stop_tokens,
            n=options.n_answers,
            salt=ask.owner,
            owner=ask.owner,
            priority=options.priority,
            deadline_ms=options.deadline_ms,
            constraint=self._constraint(options),
            stop_token_ids=options.stop_token_ids,
            min_tokens=options.min_tokens,
        )

    def _check_ends(self, options: Options, max_tokens: int) -> None:
        """Raises ApiError (400) for unusable `min_tokens` and `stop_token_ids`."""
        if options.min_tokens > max_tokens:
            raise bad_value(
                "min_tokens", f"min_tokens must be at most max_tokens, which is {max_tokens} here"
            )
        beyond = [token for token in options.stop_token_ids if token >= self._vocab_size]
        if beyond:
            message = f"stop_token_ids names token {min(beyond)}; this model has {self._vocab_size} tokens"
            raise bad_value("stop_token_ids", message)
        own = frozenset[int]() if options.ignore_stop_tokens else self.served.tokenizer.stop_tokens
        if options.min_tokens and len(options.stop_token_ids | own) >= self._vocab_size:
            raise bad_value("min_tokens", "stop_token_ids leave no token to generate before min_tokens")

    def _constraint(self, options: Options) -> Constraint | None:
        """The constraint of a request's schema. Raises ApiError (400) for schemas that cannot be used."""
        if options.schema is None:
            return None
        try:
            return self._grammars.json_schema(options.schema)
        except ValueError as error:
            raise bad_value("response_format", str(error)) from error

    @cached_property
    def _grammars(self) -> JSONGrammars:
        """The grammars, made when first needed. Raises ValueError where the tokenizer has no stop token."""
        return JSONGrammars(self.served.tokenizer, self._vocab_size)

    @property
    def _vocab_size(self) -> int:
        return self.served.transformer.config.vocab_size

    async def stop(self) -> None:
        await asyncio.to_thread(self.engine.stop)
        self._experts.close()


class EngineRun:
    """A submitted generation's events as pieces, to be iterated once. Its holder must cancel it in the end.

    It does not keep the engine, nor so the model, alive: a client that stops reading may hold it for long after a swap.
    """

    def __init__(self, service: Service, generation: Generation, ask: Ask) -> None:
        self._engine = weakref.ref(service.engine)
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        token_bytes = service.served.tokenizer.token_bytes
        self._n_top = ask.options.logprobs
        self._writers = [LogprobWriter(token_bytes, is_chat=ask.is_chat) for _ in range(generation.n)]
        try:
            self._job = service.engine.submit(generation, _passing_to(self._queue))
        except QueueFullError as error:
            raise not_now("queue_full", str(error), retry_s=BUSY_RETRY_S, status=429) from error
        except EngineStoppedError as error:
            raise not_now("shutting_down", str(error)) from error

    def cancel(self) -> None:
        engine = self._engine()
        if engine is not None:
            engine.cancel(self._job)

    async def pieces(self) -> AsyncIterator[Piece]:
        is_last = False
        while not is_last:
            event = await self._queue.get()
            _check(event)
            is_last = event.is_last
            yield self._piece(event)

    def _piece(self, event: Event) -> Piece:
        finish = None if event.finish is None else event.finish.value
        return Piece(event.text, event.usage, event.answer, finish, self._logprobs(event))

    def _logprobs(self, event: Event) -> Mapping[str, Any] | None:
        """The log probabilities that were asked for: samplers, which patches may touch, may give more."""
        if event.chosen is None or self._n_top is None:
            return None
        asked = replace(event.chosen, top=event.chosen.top[: self._n_top])
        return self._writers[event.answer].write(asked)


def _passing_to(queue: asyncio.Queue[Event]) -> Listener:
    """A listener that puts events into the queue from the engine's thread."""
    loop = asyncio.get_running_loop()

    def pass_on(event: Event) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    return pass_on


def _check(event: Event) -> None:
    """Raises ApiError if an answer broke off. A late one that has begun ends with the reason "deadline"."""
    if event.finish is Finish.ERROR:
        raise ApiError(500, "model_failed", "the model failed on this request", kind="server_error")
    if event.finish is Finish.CANCELLED:
        raise not_now("shutting_down", "the node ended this answer early")
    if event.finish is Finish.DEADLINE and event.usage.completion_tokens == 0:
        raise too_late()
