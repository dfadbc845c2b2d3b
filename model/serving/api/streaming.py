"""Streaming: answers as server-sent events, and work that is cancelled when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from model.serving.api.answers import DONE, Answer, server_sent
from model.serving.api.errors import ApiError
from model.serving.api.requests import Options
from model.serving.node.backend import Piece, Running

Result = TypeVar("Result")


async def stream_answer(running: Running, options: Options, answer: Answer) -> AsyncGenerator[str, None]:
    """Yield chunks, then the usage if asked for, then [DONE]. A failure is sent in the stream, without [DONE]."""
    last: Piece | None = None
    try:
        async for piece in running.pieces():
            last = piece
            for chunk in answer.chunks(piece, with_usage=options.continuous_usage):
                yield server_sent(chunk)
    except ApiError as error:
        yield server_sent(error.body())
        return
    if options.include_usage and last is not None:
        yield server_sent(answer.closing(last.usage))
    yield DONE


class EventStream(StreamingResponse):
    """A streaming response that itself detects the client's disconnect, in any ASGI version of the server.

    The generation is cancelled however the stream ends, even if it never began.
    """

    def __init__(self, chunks: AsyncGenerator[str, None], running: Running) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._chunks, self._running = chunks, running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._running.cancel()
            sending.cancel()
            leaving.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._chunks.aclose()
        for result in results:
            # sending fails when the client has disconnected, which is not an error
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of `work`; None if the client disconnects first, which cancels it."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def disconnected(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
