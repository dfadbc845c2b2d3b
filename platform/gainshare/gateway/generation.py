"""Life of an admitted request, from its first chunk to its settled hold.

A generation ends exactly once: completed, cancelled (the client disconnected) or failed (the node failed, or
the time of the hold ran out). The first caller of `finish` ends it. The metered usage is recorded and settled
in a separate task, because the request's task may be cancelled.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.gateway import services
from gainshare.gateway.arrivals import Arrivals
from gainshare.gateway.database import in_database
from gainshare.gateway.errors import BadKey, DeadlineMissed, GatewayError, NodeFailed, TookTooLong
from gainshare.gateway.metering import Meter, Metered, MeterError
from gainshare.gateway.models import RequestStatus
from gainshare.gateway.nodes import DeadlinePassed, ModelNode, NodePool, NodeStreamError
from gainshare.gateway.requests import GenerationRequest
from gainshare.gateway.services import Admission

logger = logging.getLogger(__name__)

SETTLE_BEFORE_END_S = (
    2.0  # generation stops this long before the request's deadline (a tenth of its time if that is less)
)
PROGRESS_S = 1.0  # how often an answer's count is recorded, and so how much a killed process may lose
WAIT_FOR_SETTLING_S = 2.0  # the client's last event waits at most this long for the bill to be settled
RETRY_S = (0.1, 0.3, 1.0, 3.0)  # pauses between attempts to record an outcome; the last one repeats

_tasks: set[asyncio.Task[Any]] = set()


def in_background(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run `work` to its end, even when no caller waits for it any more."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


class Generation:
    """A running request. Call `begin`, iterate `chunks` to its end, or call `finish` to end it early."""

    def __init__(
        self, *, pool: NodePool, node: ModelNode, request: GenerationRequest, admission: Admission
    ) -> None:
        self.admission = admission
        self.meter = Meter(
            prompt_tokens=admission.prompt_tokens,
            max_tokens=admission.output_tokens,
            n_answers=admission.n_answers,
            cache=admission.cache,
        )
        self._pool, self._node, self._request = pool, node, request
        self._stack = AsyncExitStack()
        self._stream: Arrivals | None = None
        self._settling: asyncio.Task[Any] | None = None
        left_s = (admission.expires_at - timezone.now()).total_seconds()
        self._margin_s = min(SETTLE_BEFORE_END_S, left_s / 10)
        self._deadline = asyncio.get_running_loop().time() + left_s - self._margin_s
        self._watch: asyncio.Task[Any] | None = None
        self._delivered = Metered()  # chunks that the client's connection has taken
        self._noting: asyncio.Task[Any] | None = None
        self._is_refused = False  # the key was revoked or the account disabled

    @property
    def metered(self) -> Metered:
        return self.meter.metered

    async def begin(self) -> None:
        """Start generating at the node; if the node refuses, the generation ends and `GatewayError` is raised."""
        self._watch = in_background(self._end_at_deadline())
        try:
            async with asyncio.timeout_at(self._deadline):
                stream = await self._stack.enter_async_context(
                    self._pool.generate(
                        self._node, self._request, self.admission.max_tokens, owner=self.admission.owner
                    )
                )
                self._stream = Arrivals(stream, self.meter.clock)
                self._stack.push_async_callback(self._stream.aclose)
        except TimeoutError:
            await self.fail(TookTooLong.code)
            raise TookTooLong(
                "The model node did not start in time. Nothing is charged; try again later."
            ) from None
        except GatewayError as error:
            await self.fail(error.code)
            raise
        except BaseException:  # the client disconnected: asyncio cancels this task
            self.finish(RequestStatus.CANCELLED)
            raise

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the node's chunks, each metered before it is forwarded. Raises `GatewayError` if the stream breaks.

        When the iterator ends, the generation has ended and, unless the database is down, is settled.
        """
        assert self._stream is not None, "begin() comes first"
        passed_on = 0
        if self._settling is None:
            self._noting = in_background(self._note_progress())
        try:
            while True:
                try:
                    async with asyncio.timeout_at(self._deadline):
                        arrived_at, chunk = await anext(self._stream)
                except StopAsyncIteration:
                    break
                self.meter.see(chunk, arrived_at)
                yield chunk
                self._delivered = self.meter.metered
                if self._is_refused:
                    await self._settled(self.finish(RequestStatus.CANCELLED, BadKey.code))
                    raise BadKey(
                        f"The API key was revoked or the account disabled (request {self.admission.request_id})."
                    )
                passed_on += 1
                if passed_on == 1:
                    fault_point("gateway.first_token")
                else:
                    fault_point("gateway.streaming")
            self.meter.check_complete()
        except DeadlinePassed:
            await self.fail(DeadlineMissed.code)
            raise DeadlineMissed(self._broken_off("The deadline of the request passed")) from None
        except (NodeStreamError, MeterError) as error:
            logger.warning("request %s at %s: %s", self.admission.request_id, self._node.url, error)
            await self.fail(NodeFailed.code)
            raise NodeFailed(self._broken_off("The model node broke off")) from None
        except TimeoutError:
            await self.fail(TookTooLong.code)
            raise TookTooLong(self._broken_off("The time for this request ran out")) from None
        except BaseException:  # the client disconnected: the task is cancelled or the generator closed
            self.finish(RequestStatus.CANCELLED)
            raise
        await self._settled(self.finish(RequestStatus.COMPLETED))

    def finish(self, status: RequestStatus, error_code: str = "") -> asyncio.Task[Any]:
        """End the generation as `status`, unless it has ended; return the task that records and settles it."""
        if self._settling is None:
            self._settling = in_background(self._settle(status, error_code))
        return self._settling

    async def fail(self, error_code: str) -> None:
        await self._settled(self.finish(RequestStatus.FAILED, error_code))

    def _broken_off(self, what: str) -> str:
        if self._request.is_stream and (tokens := self.metered.completion_tokens):
            return f"{what}; only the {tokens} tokens you received are charged (request {self.admission.request_id})."
        return (
            f"{what} before an answer was complete; nothing is charged (request {self.admission.request_id})."
        )

    async def _settled(self, settling: asyncio.Task[Any]) -> None:
        await asyncio.wait({settling}, timeout=WAIT_FOR_SETTLING_S)

    async def _end_at_deadline(self) -> None:
        """End a generation at its deadline even if its client stopped reading."""
        await asyncio.sleep(self._deadline + self._margin_s / 2 - asyncio.get_running_loop().time())
        self.finish(RequestStatus.FAILED, TookTooLong.code)

    async def _note_progress(self) -> None:
        """Record the count of delivered tokens every `PROGRESS_S`, which beat bills if the process is killed.

        Also check whether the key was revoked or the account disabled.
        """
        while True:
            await asyncio.sleep(PROGRESS_S)
            delivered = self._delivered
            try:
                may_go_on = await in_database(
                    services.follow, request_id=self.admission.request_id, metered=delivered
                )
            except (DatabaseError, InterfaceError) as error:
                logger.warning("request %s: progress was not recorded: %s", self.admission.request_id, error)
            else:
                self._is_refused = not may_go_on
                if delivered.completion_tokens:
                    fault_point("gateway.progress_noted")

    async def _settle(self, status: RequestStatus, error_code: str) -> None:
        metered, finish_reason = self.metered, self.meter.finish_reason
        if status is RequestStatus.FAILED and (not self._request.is_stream or not metered.completion_tokens):
            metered = Metered(prompt_tokens=0, engine=metered.engine)  # nothing was delivered
        fault_point("gateway.before_settle")
        closing = asyncio.create_task(self._close())
        outcome = {
            "status": status,
            "metered": metered,
            "finish_reason": finish_reason,
            "error_code": error_code,
        }
        await record_and_settle(self.admission, outcome)
        await asyncio.wait({closing})

    async def _close(self) -> None:
        """Close the node's stream, which makes the node stop generating."""
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        if self._noting is not None:
            self._noting.cancel()
        await self._stack.aclose()


async def record_and_settle(admission: Admission, outcome: dict[str, Any]) -> None:
    """Record the outcome, with retries until the request's deadline, then settle. Beat repeats a failed settling."""
    attempt = 0
    while True:
        try:
            await in_database(services.record_outcome, request_id=admission.request_id, **outcome)
            fault_point("gateway.recorded")
            await in_database(services.settle, request_id=admission.request_id)
        except (DatabaseError, InterfaceError) as error:
            pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
            attempt += 1
            logger.warning(
                "request %s: settling failed (%s), next attempt in %s s", admission.request_id, error, pause
            )
            if timezone.now() + timedelta(seconds=pause) > admission.expires_at:
                logger.error(
                    "request %s: not settled in time, beat will bill what was recorded", admission.request_id
                )
                return
            await asyncio.sleep(pause)
        else:
            return
