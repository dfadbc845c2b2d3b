"""From a read request to events: prompt, limits, the engine's queue, and cancelling. No HTTP in here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from model.serving.chat import ChatError, Message
from model.serving.engine import Engine, EngineStoppedError, Event, Finish, Generation, QueueFullError
from model.serving.errors import ApiError, bad_value
from model.serving.requests import Options, Prompt
from model.serving.served import ServedModel

BUSY_RETRY_S = 2


class Service:
    """One served model and its engine, asked from an event loop."""

    def __init__(self, served: ServedModel, engine: Engine) -> None:
        self.served = served
        self.engine = engine

    def check_model(self, name: str) -> None:
        if name != self.served.name:
            message = f"the model {name!r} does not exist here; this node serves {self.served.name!r}"
            raise ApiError(404, "model_not_found", message, param="model")

    async def tokens_of(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt; long texts are encoded on another thread. Raises ApiError (400)."""
        return await asyncio.to_thread(self._encode, prompt)

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.served.tokenizer.encode(prompt))
        messages = tuple(item for item in prompt if isinstance(item, Message))
        if messages:
            try:
                return tuple(self.served.tokenizer.encode(self.served.chat.render(messages)))
            except ChatError as error:
                raise bad_value("messages", str(error)) from error
        ids = tuple(item for item in prompt if isinstance(item, int))
        vocab_size = self.served.transformer.config.vocab_size
        if not all(0 <= token < vocab_size for token in ids):
            raise bad_value("prompt", f"token ids must lie between 0 and {vocab_size - 1}")
        return ids

    def generation(self, tokens: tuple[int, ...], options: Options, default_tokens: int | None) -> Generation:
        """Refuses what cannot fit the context; `default_tokens` None means as much as fits."""
        room = self.served.max_context - len(tokens)
        wanted = options.max_tokens if options.max_tokens is not None else min(default_tokens or room, room)
        if room < 1 or wanted > room:
            raise bad_value(
                "messages" if default_tokens is None else "prompt",
                f"this model's context is {self.served.max_context} tokens; the prompt has {len(tokens)} and "
                f"{max(wanted, 0)} more were asked for. Shorten the prompt or lower max_tokens",
                "context_length_exceeded",
            )
        return Generation(tokens, wanted, options.settings, options.stop, options.ignore_stop_tokens)

    def submit(self, generation: Generation) -> Running:
        """Queues a generation. Raises ApiError: 429 when the queue is full, 503 during shutdown."""
        return Running(self.engine, generation)


class Running:
    """A submitted generation's events, to be iterated once. Whoever holds it must cancel it in the end."""

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        try:
            self._job = engine.submit(generation, self._pass_on)
        except QueueFullError as error:
            headers = {"Retry-After": str(BUSY_RETRY_S)}
            raise ApiError(429, "queue_full", f"{error}", kind="rate_limit_error", headers=headers) from error
        except EngineStoppedError as error:
            raise ApiError(503, "shutting_down", f"{error}", kind="server_error") from error

    def _pass_on(self, event: Event) -> None:  # on the engine's thread
        self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def cancel(self) -> None:
        """Ends the generation before the engine's next step; harmless when it has ended."""
        self._engine.cancel(self._job)

    async def events(self) -> AsyncIterator[Event]:
        """Events up to the one with a finish. Raises ApiError: 500 when the model failed, 503 during shutdown."""
        while True:
            event = await self._queue.get()
            if event.finish is Finish.ERROR:
                raise ApiError(500, "model_failed", "the model failed on this request", kind="server_error")
            if event.finish is Finish.CANCELLED:
                raise ApiError(503, "shutting_down", "the node ended this answer early", kind="server_error")
            yield event
            if event.finish is not None:
                return

    async def whole(self) -> tuple[str, Event]:
        """The whole text and the last event."""
        events = [event async for event in self.events()]
        return "".join(event.text for event in events), events[-1]
