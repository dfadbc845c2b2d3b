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
from typing import Any, NamedTuple, Protocol, TypeVar

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from benchmarks.faults import fault_point
from gainshare.gateway import services
from gainshare.gateway.arrivals import Arrivals
from gainshare.gateway.background import in_background
from gainshare.gateway.database import in_database
from gainshare.gateway.errors import (
    BadKey,
    DeadlineMissed,
    GatewayError,
    NodeFailed,
    NodeUnavailable,
    TookTooLong,
)
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
NS_PER_S = 1_000_000_000
LOOK_AGAIN_S = 0.5  # how often a request without a token at a silent node looks for another one
RETRY_S = (0.1, 0.3, 1.0, 3.0)  # pauses between attempts to record an outcome; the last one repeats

Result = TypeVar("Result")


class Place(Protocol):
    """The request's place among the nodes: `nodes.placement.Placement`."""

    node: ModelNode | None

    async def wait(self) -> ModelNode: ...
    async def move(self) -> bool: ...
    def can_move(self) -> bool: ...
    def body(self) -> GenerationRequest: ...
    def sent(self) -> None: ...
    def token(self, after_s: float) -> None: ...
    def ended(self, *, tokens: int, is_whole: bool, has_failed: bool) -> None: ...
    def freed(self) -> None: ...


class Seen(NamedTuple):
    """A chunk with the usage then, and when it arrived: seconds since the request was sent to its node."""

    chunk: dict[str, Any]
    metered: Metered
    after_s: float


class NodeSilent(NodeStreamError):
    """The node stopped answering before the first token."""


class Generation:
    """A running request. Call `begin`, iterate `chunks` to its end, or call `finish` to end it early.

    Before its first token a request may move to another node: the stream of the first one is closed before.
    """

    def __init__(
        self, *, pool: NodePool, place: Place, request: GenerationRequest, admission: Admission
    ) -> None:
        self.admission = admission
        self.meter = self._new_meter()
        self._pool, self._place, self._request = pool, place, request
        self._stack = AsyncExitStack()
        self._stream: Arrivals | None = None
        self._is_over = False  # the node's stream was read to its end
        self._settling: asyncio.Task[Any] | None = None
        left_s = (admission.expires_at - timezone.now()).total_seconds()
        self._margin_s = min(SETTLE_BEFORE_END_S, left_s / 10)
        self._deadline = asyncio.get_running_loop().time() + left_s - self._margin_s
        self._watch: asyncio.Task[Any] | None = None
        self._delivered = Metered()  # chunks that the client's connection has taken
        self._noting: asyncio.Task[Any] | None = None
        self._is_refused = False  # the key was revoked or the account disabled

    @property
    def tree(self) -> str:
        """Hash of the tree that answers, empty if it is not known. It stays from the first chunk on."""
        node = self._place.node
        return "" if node is None else node.facts.tree

    @property
    def metered(self) -> Metered:
        return self.meter.metered

    async def begin(self) -> None:
        """Start generating at the node; if the node refuses, the generation ends and `GatewayError` is raised."""
        self._watch = in_background(self._end_at_deadline())
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._open()
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

    def _new_meter(self) -> Meter:
        return Meter(
            prompt_tokens=self.admission.prompt_tokens,
            max_tokens=self.admission.output_tokens,
            n_answers=self.admission.n_answers,
            cache=self.admission.cache,
        )

    async def _open(self) -> None:
        """Start the answer at the request's node, or at another one if that fails. Waits for a node if it has none."""
        while True:
            node = await self._place.wait()
            self.meter = self._new_meter()  # its clock begins here, so that the wait costs no memory
            self._place.sent()
            opening = self._pool.generate(
                node, self._place.body(), self.admission.max_tokens, owner=self.admission.owner
            )
            try:
                stream = await self._while_it_answers(node, self._stack.enter_async_context(opening))
            except (NodeUnavailable, NodeFailed, NodeSilent) as error:
                if not await self._leave(error):
                    if isinstance(error, GatewayError):
                        raise
                    raise NodeUnavailable("The model node does not answer. Try again shortly.") from None
            else:
                if (
                    self._settling is not None
                ):  # it was ended meanwhile, so that nothing else closes the new stream
                    await self._stack.aclose()
                    raise NodeUnavailable("The request was ended.")
                self._stream = Arrivals(stream, self.meter.clock)
                self._stack.push_async_callback(self._stream.aclose)
                return

    async def _leave(self, error: Exception) -> bool:
        """Close the node's stream and give the node back; True if another one may answer."""
        node = self._place.node
        await self._stack.aclose()
        self._stream, self._is_over, self.meter = None, False, self._new_meter()
        fault_point("gateway.left_node")
        if self._settling is not None or not await self._place.move():
            return False
        logger.warning(
            "request %s leaves %s: %s", self.admission.request_id, node.url if node else "?", error
        )
        return True

    async def _while_it_answers(self, node: ModelNode, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`; raises `NodeSilent` if the node stops answering and another one could."""
        working = asyncio.create_task(work)
        silence = asyncio.create_task(node.out.wait())
        try:
            await asyncio.wait({working, silence}, return_when=asyncio.FIRST_COMPLETED)
            while not working.done():
                if node.out.is_set() and self._place.can_move():
                    raise NodeSilent("the node does not answer")
                await asyncio.wait({working}, timeout=LOOK_AGAIN_S)  # it may answer again
            return working.result()
        finally:
            silence.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})

    async def _first_chunks(self) -> list[Seen]:
        """The chunks up to the first one with tokens, from the first node that gets so far.

        They are passed on together, so that a client whose request moved sees nothing of the node that was left.
        """
        while True:
            try:
                return await self._read_to_first_token()
            except (NodeStreamError, MeterError) as error:
                if isinstance(error, DeadlinePassed) or not await self._leave(error):
                    raise
                await self._open()

    async def _read_to_first_token(self) -> list[Seen]:
        node = self._place.node
        assert node is not None, "begin() comes first"
        first: list[Seen] = []
        while not self.metered.completion_tokens:
            seen = await self._while_it_answers(node, self._see_next())
            if seen is None:
                break
            first.append(seen)
        return first

    async def _see_next(self) -> Seen | None:
        """Read and meter the next chunk; None after a complete answer. Raises `NodeStreamError` or `MeterError`."""
        assert self._stream is not None, "begin() comes first"
        if self._is_over:
            return None
        try:
            arrived_at, chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._is_over = True
            self.meter.check_complete()
            return None
        self.meter.see(chunk, arrived_at)
        return Seen(chunk, self.metered, arrived_at.ns / NS_PER_S)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the node's chunks, each metered before it is forwarded. Raises `GatewayError` if the stream breaks.

        When the iterator ends, the generation has ended and, unless the database is down, is settled.
        """
        assert self._stream is not None, "begin() comes first"
        passed_on = 0
        if self._settling is None:
            self._noting = in_background(self._note_progress())
        try:
            async with asyncio.timeout_at(self._deadline):
                first = await self._first_chunks()
            while True:
                if first:
                    seen: Seen | None = first.pop(0)
                else:
                    async with asyncio.timeout_at(self._deadline):
                        seen = await self._see_next()
                if seen is None:
                    break
                if seen.metered.completion_tokens > self._delivered.completion_tokens:
                    self._place.token(seen.after_s)
                yield seen.chunk
                self._delivered = seen.metered
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
        except DeadlinePassed:
            await self.fail(DeadlineMissed.code)
            raise DeadlineMissed(self._broken_off("The deadline of the request passed")) from None
        except (NodeStreamError, MeterError) as error:
            url = self._place.node.url if self._place.node is not None else "no node"
            logger.warning("request %s at %s: %s", self.admission.request_id, url, error)
            await self.fail(NodeFailed.code)
            raise NodeFailed(self._broken_off("The model node broke off")) from None
        except TimeoutError:
            await self.fail(TookTooLong.code)
            raise TookTooLong(self._broken_off("The time for this request ran out")) from None
        except GatewayError as error:  # no other node could take the request over
            await self.fail(error.code)
            raise
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
        self._place.ended(
            tokens=self.metered.completion_tokens,
            is_whole=status is RequestStatus.COMPLETED,
            has_failed=error_code == NodeFailed.code,
        )
        node = self._place.node
        closing = asyncio.create_task(self._close())
        outcome = {
            "status": status,
            "metered": metered,
            "finish_reason": finish_reason,
            "error_code": error_code,
            "node": node.key if node is not None else "",
            "device_class": node.facts.device_class if node is not None else "",
            "tree": node.facts.tree if node is not None else "",
        }
        try:
            await record_and_settle(self.admission, outcome)
        finally:
            self._place.freed()
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
