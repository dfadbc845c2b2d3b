"""Requests that wait: those of a model whose nodes still start, and streams whose answer takes long to begin.

Without a node no prompt can be counted, and so no credits can be held. Such a request takes a seat first, by an estimate
of its prompt, and is admitted once a node counts it. Scaling sees its seat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from uuid import UUID

from django.conf import settings
from django.http import JsonResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse
from django.utils import timezone

from gainshare.capacity.routing.analysis import canonical
from gainshare.capacity.routing.exchange import HeldSeat
from gainshare.capacity.routing.seats import SeatRequest
from gainshare.gateway import services
from gainshare.gateway.background import in_background
from gainshare.gateway.database import in_database
from gainshare.gateway.errors import (
    DeadlineMissed,
    GatewayError,
    NodeUnavailable,
    Overloaded,
    UnknownModel,
    error_body,
)
from gainshare.gateway.nodes import NodePool, TokenCount
from gainshare.gateway.nodes.sharing import Sharing, give_up
from gainshare.gateway.requests import GenerationRequest
from gainshare.gateway.wire import event
from gainshare.ledger.models import PriceVersion

logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4  # of a prompt that nothing has counted yet
LOOK_S = 0.25  # how often a waiting request looks for a node
PATIENCE_S = 5.0  # a stream that has not begun after so long gets its headers and comments
COMMENT_S = 10.0
COMMENT = b": waiting for a node\n\n"


async def count_when_a_node_is_ready(
    *,
    pool: NodePool,
    sharing: Sharing,
    request: GenerationRequest,
    request_id: UUID,
    payer: services.Payer,
    price: PriceVersion,
) -> TokenCount:
    """Wait in front until a node can count the prompt; the request keeps its seat for its admission.

    Raises `NoCredits`, `TooManyRequests`, `Overloaded` or `DeadlineMissed`; then it has no seat.
    """
    urgency = request.urgency
    tokens = len(canonical(request.prompt)) // BYTES_PER_TOKEN
    asked = SeatRequest(
        process=sharing.process,
        account=payer.user.pk,
        model=request.model,
        priority=urgency.priority,
        prompt_tokens=tokens,
        expected_tokens=request.max_tokens or 1,
        account_limit=settings.ACCOUNT_REQUESTS,
        queue_limit=settings.QUEUE_REQUESTS,
    )
    await in_database(services.wait_in_front, payer=payer, price=price, request_id=request_id, seat=asked)
    seat = HeldSeat(
        request_id=request_id,
        account=asked.account,
        model=asked.model,
        node="",
        device_class="",
        priority=asked.priority,
        prompt_tokens=asked.prompt_tokens,
        expected_tokens=asked.expected_tokens,
        queued_at=timezone.now(),
    )
    sharing.hold(seat)
    sharing.outbox.arrived(request.model, timezone.now())
    try:
        async with asyncio.timeout(min(settings.QUEUE_S, urgency.deadline_s or settings.QUEUE_S)):
            while True:
                await asyncio.sleep(LOOK_S)
                try:
                    _, count = await pool.tokenise(request)
                except (NodeUnavailable, UnknownModel):
                    continue
                return count
    except TimeoutError:
        in_background(give_up(sharing, request_id))
        if urgency.deadline_s is not None and urgency.deadline_s < settings.QUEUE_S:
            raise DeadlineMissed(
                "The deadline of the request passed before a node was ready. Nothing is charged."
            ) from None
        raise Overloaded(
            f"No node for the model was ready within {settings.QUEUE_S} s. Nothing is charged; try again later."
        ) from None
    except BaseException:
        in_background(give_up(sharing, request_id))
        raise


class PatientStream(StreamingHttpResponse):
    """A stream that begins with comments, until its answer begins. What is refused meanwhile is an event."""

    def __init__(self, answering: asyncio.Task[HttpResponseBase], request_id: UUID) -> None:
        super().__init__(self._events(), content_type="text/event-stream")
        self["Cache-Control"] = "no-cache, no-transform"
        self["X-Accel-Buffering"] = "no"
        self["X-Gainshare-Request-Id"] = self["X-Request-Id"] = str(request_id)
        self._answering = answering
        self._loop = asyncio.get_running_loop()

    async def _events(self) -> AsyncIterator[bytes]:
        while not self._answering.done():
            yield COMMENT
            await asyncio.wait({self._answering}, timeout=COMMENT_S)
        try:
            answer = self._answering.result()
        except Exception:  # a bug; the headers are sent, so that it can only be told as an event
            logger.exception("unexpected error")
            yield event(error_body(GatewayError("The service failed, and the failure was logged.")))
            return
        if isinstance(answer, StreamingHttpResponse):
            async for piece in answer:
                yield piece
        elif isinstance(answer, JsonResponse):
            yield b"data: " + answer.content + b"\n\n"

    def close(self) -> None:
        """Called by Django in a thread, after the response was sent or the client disconnected."""
        super().close()
        self._loop.call_soon_threadsafe(abandon, self._answering)


def abandon(answering: asyncio.Task[HttpResponseBase]) -> None:
    """End an answer that no one reads any more, whether it has begun or not."""
    if not answering.done():
        answering.cancel()
    elif not answering.cancelled() and answering.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, answering.result().close)


async def patiently(answering: asyncio.Task[HttpResponseBase], request_id: UUID) -> HttpResponseBase:
    """The answer of a streamed request, or after `PATIENCE_S` a stream that waits for it."""
    try:
        await asyncio.wait({answering}, timeout=PATIENCE_S)
    except asyncio.CancelledError:  # the client disconnected
        abandon(answering)
        raise
    return answering.result() if answering.done() else PatientStream(answering, request_id)
