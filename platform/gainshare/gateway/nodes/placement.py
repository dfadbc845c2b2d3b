"""Place of one admitted request: the node that it has, the wait for one, and the move to another.

A request has one node at a time. It moves only before its first token, after the old stream was closed, so that it
never runs twice and is never billed twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from gainshare.capacity.routing import seats
from gainshare.capacity.routing.analysis import Analysis, recorded
from gainshare.capacity.routing.estimates import work_tokens
from gainshare.capacity.routing.exchange import HeldSeat
from gainshare.capacity.routing.outbox import Served
from gainshare.capacity.routing.promises import Timed, broken
from gainshare.capacity.routing.seats import Candidate, SeatGone, SeatRequest
from gainshare.gateway.answers import EXTENSION
from gainshare.gateway.background import in_background
from gainshare.gateway.database import in_database
from gainshare.gateway.errors import DeadlineMissed, Overloaded
from gainshare.gateway.nodes.pool import ModelNode, NodePool
from gainshare.gateway.nodes.sharing import DATABASE_AWAY, Sharing, give_up
from gainshare.gateway.requests import GenerationRequest

logger = logging.getLogger(__name__)

MOST_NODES = 4  # that one request is sent to, one after the other
ASK_AGAIN_S = 1.0  # a waiting request asks at least this often, whatever it was told
LEAST_DEADLINE_MS = 1


class Placement:
    """The place of one request. `node` is None while it waits."""

    def __init__(
        self,
        *,
        sharing: Sharing,
        pool: NodePool,
        request: GenerationRequest,
        request_id: UUID,
        account: int,
        payer: str,
        analysis: Analysis,
    ) -> None:
        self.node: ModelNode | None = None
        self.analysis = analysis
        self._sharing, self._pool, self._request = sharing, pool, request
        self._request_id, self._account, self._payer = request_id, account, payer
        self._tried: list[str] = []
        now = timezone.now()
        # Earlier for a request that waited before its prompt could be counted.
        self._queued_at = sharing.queued_at(request_id) or now
        self._arrived_at = time.monotonic() - max((now - self._queued_at).total_seconds(), 0.0)
        self._work_tokens = 0  # prompt tokens that the node has to compute before the first token
        self._sent_at = self._first_at = self._last_at = 0.0
        self._was_told = True  # whether this try at the node was measured
        self._unknown = ""  # a node that the seat has, and this process does not know any more

    # -- the seat ---------------------------------------------------------------------------------------

    def asked(self) -> SeatRequest:
        """What the admission asks for; the nodes in the order of preference."""
        return SeatRequest(
            process=self._sharing.process,
            account=self._account,
            model=self._request.model,
            priority=self.analysis.priority,
            prompt_tokens=self.analysis.prompt_tokens,
            expected_tokens=self.analysis.expected_tokens,
            account_limit=settings.ACCOUNT_REQUESTS,
            queue_limit=settings.QUEUE_REQUESTS,
            nodes=self._candidates(),
        )

    def seated(self, node: str) -> None:
        """The admission took the seat, with this node, or "" if the request waits."""
        if not self._sharing.holds(self._request_id):
            self._sharing.outbox.arrived(self._request.model, timezone.now())
        self._sharing.hold(
            HeldSeat(
                request_id=self._request_id,
                account=self._account,
                model=self._request.model,
                node="",
                device_class="",
                priority=self.analysis.priority,
                prompt_tokens=self.analysis.prompt_tokens,
                expected_tokens=self.analysis.expected_tokens,
                queued_at=self._queued_at,
            )
        )
        if node and not self._got(node):
            self._unknown = node

    def refused(self, *, was_full: bool) -> None:
        """The admission failed, and wrote nothing. A seat that the request had before is freed."""
        if self._sharing.holds(self._request_id):
            in_background(give_up(self._sharing, self._request_id))
        elif was_full:
            self._sharing.outbox.arrived(self._request.model, timezone.now())  # it was wanted all the same

    async def wait(self) -> ModelNode:
        """The request's node, as soon as it has one. Raises `Overloaded` or `DeadlineMissed` after the longest wait."""
        if self.node is not None:
            return self.node
        waiter = self._sharing.waits(self._request_id, self._request.model)
        try:
            async with asyncio.timeout(self._patience_s()):
                while self.node is None:
                    await self._ask()
                    if self.node is None:
                        await _turn(waiter.turn)
        except TimeoutError:
            if self._deadline_left_s() <= 0:
                raise DeadlineMissed(
                    "The deadline of the request passed before a node was free. Nothing is charged."
                ) from None
            raise Overloaded(
                f"No node for the model was free within {settings.QUEUE_S} s. Nothing is charged; try again later."
            ) from None
        finally:
            self._sharing.waits_no_more(self._request_id)
        return self.node

    async def move(self) -> bool:
        """Give the node back, because it failed before the first token. True if another one may answer.

        Close the node's stream first.
        """
        node = self.node
        assert node is not None, "the request waits"
        if not node.out.is_set():
            self._pool.distrust(node)
        self._measure(has_failed=True)
        self._tried.append(node.key)
        if len(self._tried) >= MOST_NODES or not self._has_hope():
            return False
        try:
            await in_database(seats.leave_node, request_id=self._request_id, node=node.key)
        except DATABASE_AWAY as error:
            logger.warning("request %s cannot move: %s", self._request_id, error)
            return False
        self.node = None
        self._sharing.moved(self._request_id, "")
        return True

    def can_move(self) -> bool:
        """Whether another node could answer now."""
        here = self.node.key if self.node is not None else ""
        return len(self._tried) + 1 < MOST_NODES and any(
            node.key != here and node.key not in self._tried for node in self._usable()
        )

    def freed(self) -> None:
        """The request's seat was freed with its settling."""
        self._sharing.freed(self._request_id)

    def body(self) -> GenerationRequest:
        """The request for the node: its deadline is shortened by the time that it waited here."""
        extension = self._request.sampling.get(EXTENSION)
        if not isinstance(extension, Mapping) or "deadline_ms" not in extension:
            return self._request
        waited_ms = int((time.monotonic() - self._arrived_at) * 1000)
        left: dict[str, Any] = {
            **extension,
            "deadline_ms": max(extension["deadline_ms"] - waited_ms, LEAST_DEADLINE_MS),
        }
        return replace(self._request, sampling={**self._request.sampling, EXTENSION: left})

    # -- what is measured ---------------------------------------------------------------------------------

    def sent(self) -> None:
        """The request is sent to its node now."""
        self._sent_at, self._first_at, self._last_at, self._was_told = time.monotonic(), 0.0, 0.0, False

    def token(self, after_s: float) -> None:
        """Tokens came, so many seconds after the request was sent: when they arrived, not when the client took them."""
        self._last_at = self._sent_at + after_s
        if self._first_at:
            return
        self._first_at = self._last_at
        assert self.node is not None
        self._sharing.first_token(self._request_id, timezone.now())
        self._sharing.computed(self.node.key, recorded(self.analysis.digests))

    def ended(self, *, tokens: int, is_whole: bool, has_failed: bool) -> None:
        """The request ended after this many tokens; `is_whole` if the model ended the answer itself."""
        if self.node is not None:
            if has_failed:
                self._pool.distrust(self.node)
            elif is_whole and tokens:
                self._pool.trust(self.node)
        self._measure(has_failed=has_failed, tokens=tokens)
        self._judge_promise(tokens)
        if is_whole:
            self._sharing.outbox.answered(self._payer, self._request.endpoint.value, tokens)

    def _measure(self, *, has_failed: bool, tokens: int = 0) -> None:
        if self.node is None or self._was_told:
            return
        self._was_told = True
        has_decode = self._first_at > 0 and tokens > self._request.n_answers
        self._sharing.outbox.served(
            Served(
                node=self.node.key,
                model=self._request.model,
                device_class=self.node.facts.device_class,
                ended_at=timezone.now(),
                busy_ms=_ms(time.monotonic() - self._sent_at),
                has_failed=has_failed,
                prefill_tokens=self._work_tokens,
                prefill_ms=_ms(self._first_at - self._sent_at) if self._first_at else None,
                decode_tokens=tokens // self._request.n_answers - 1 if has_decode else 0,
                decode_ms=_ms(self._last_at - self._first_at) if has_decode else None,
            )
        )

    def _judge_promise(self, tokens: int) -> None:
        """Count whether the request kept what its model promises, where it promises anything."""
        promise = self._sharing.view.view.served.get(self._request.model)
        if promise is None:
            return
        per_answer = tokens // self._request.n_answers - 1
        timed = Timed(
            waited_s=time.monotonic() - self._arrived_at,
            first_token_s=self._first_at - self._arrived_at if self._first_at else None,
            decode_s=self._last_at - self._first_at,
            decode_tokens=max(per_answer, 0),
        )
        if (what := broken(timed, promise)) is not None:
            self._sharing.outbox.kept_or_broke(self._request.model, timezone.now(), what)

    # -- waiting --------------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        """Ask the database for one of the nodes that can be used now."""
        candidates = self._candidates()
        try:
            if self._unknown:
                await in_database(seats.leave_node, request_id=self._request_id, node=self._unknown)
                self._unknown = ""
            if not candidates:
                return
            key = await in_database(seats.give_node, request_id=self._request_id, nodes=candidates)
        except (*DATABASE_AWAY, SeatGone) as error:  # its own exchange restores a seat that others freed
            logger.warning("request %s got no node: %r", self._request_id, error)
            return
        if key and not self._got(key):
            self._unknown = key

    def _got(self, key: str) -> bool:
        """Take over the node that the seat has; False if it has left the pool meanwhile."""
        self.node = self._pool.node(key)
        if self.node is None:
            return False
        view = self._sharing.view
        left = view.facts(self.node.facts, self._request.model).prefill_left
        hit = view.hit_tokens(key, self.analysis)
        self._work_tokens = work_tokens(left, self.analysis.prompt_tokens - hit)
        self._sharing.moved(self._request_id, key, self.node.facts.device_class, cached_tokens=hit)
        return True

    def _candidates(self) -> tuple[Candidate, ...]:
        usable = self._usable()
        untried = [node for node in usable if node.key not in self._tried] or usable
        return self._sharing.view.candidates(
            [node.facts for node in untried],
            self._request.model,
            self.analysis,
            seed=self._request_id.int + len(self._tried),
            now=timezone.now(),
        )

    def _usable(self) -> list[ModelNode]:
        """Nodes that can answer the request now."""
        return self._pool.usable(self._request.model, self._request.tree)

    def _has_hope(self) -> bool:
        """Whether another node can answer now, or the pool will bring one."""
        untried = any(node.key not in self._tried for node in self._usable())
        return untried or self._request.model in self._sharing.view.view.served

    def _deadline_left_s(self) -> float:
        if self.analysis.deadline_s is None:
            return float("inf")
        return self.analysis.deadline_s - (time.monotonic() - self._arrived_at)

    def _patience_s(self) -> float:
        return max(min(float(settings.QUEUE_S), self._deadline_left_s()), 0.0)


async def _turn(turn: asyncio.Event) -> None:
    """Wait until it may be the request's turn, but not for longer than `ASK_AGAIN_S`."""
    try:
        async with asyncio.timeout(ASK_AGAIN_S):
            await turn.wait()
    except TimeoutError:
        pass
    turn.clear()


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 0)
