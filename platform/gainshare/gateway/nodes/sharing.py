"""This process's part in the shared view: it reads and writes a few times a second while it has requests.

An idle process does nothing; its next request reads the view first. Where the database is away, the last view stays,
begun answers continue, and nothing new is admitted, because every admission writes its seat and its hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from gainshare.capacity.routing import exchange, rates, seats
from gainshare.capacity.routing.analysis import History
from gainshare.capacity.routing.exchange import HeldSeat, View
from gainshare.capacity.routing.outbox import Outbox
from gainshare.capacity.routing.rates import Counted, Rates
from gainshare.capacity.routing.shared_view import SharedView
from gainshare.gateway.database import in_database
from gainshare.gateway.nodes.pool import NodePool, node_pool

logger = logging.getLogger(__name__)

FRESH_S = 0.5  # a view that is older is read again before a node is chosen
EXCHANGE_S = 0.4  # between two exchanges
WAITING_EXCHANGE_S = 0.1  # while a request of this process waits for a node
KEEPING_S = 5.0  # how often seats are compared, lost processes looked for, and rates read
FORGET_AFTER = timedelta(seconds=30)  # a seat that this process does not know is freed after so long
HISTORY_S = 60.0  # how long a key's history is cached
MOST_HISTORIES = 10_000
DATABASE_AWAY = (DatabaseError, InterfaceError)


@dataclass(eq=False, slots=True)
class Waiter:
    """A request of this process that waits for a node. `turn` is set when it should ask for one."""

    request_id: UUID
    model: str
    turn: asyncio.Event = field(default_factory=asyncio.Event)


class Sharing:
    """The shared view and the seats of one process. Belongs to one event loop and its `NodePool`."""

    def __init__(self, pool: NodePool) -> None:
        self.process = uuid4()
        self.view = SharedView()
        self.outbox = Outbox()
        self._pool = pool
        self._held: dict[UUID, HeldSeat] = {}
        self._waiters: dict[UUID, Waiter] = {}
        self._histories: OrderedDict[tuple[str, str], tuple[float, History]] = OrderedDict()
        self._wanted: set[tuple[str, str]] = set()
        self._exchanging: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._spoke_at = float("-inf")  # monotonic seconds, of the last exchange that succeeded
        self._since = float("-inf")  # since when no two exchanges were further apart than a lease
        self._was_silent = False
        self._kept_at = self._rated_at = float("-inf")
        self._read_at = timezone.now() - exchange.BLOCK_LIFE

    async def fresh(self, max_age_s: float = FRESH_S) -> SharedView:
        """The view, at most `max_age_s` old; raises the database's error if it cannot be read."""
        if time.monotonic() - self._spoke_at > max_age_s:
            await self._exchange_once()
        return self.view

    # -- seats of this process --------------------------------------------------------------------------

    def hold(self, seat: HeldSeat) -> None:
        """Remember a seat that was just taken."""
        self._held[seat.request_id] = seat
        self._run()

    def moved(self, request_id: UUID, node: str, device_class: str = "", *, cached_tokens: int = 0) -> None:
        """Remember that a request got `node`; "" if it waits again."""
        seat = self._held.get(request_id)
        if seat is None:
            return
        self.view.left(request_id, seat.node)
        self._held[request_id] = replace(seat, node=node, device_class=device_class)
        if node:
            self.view.seated(
                request_id,
                node,
                prefill_left=seat.prompt_tokens - cached_tokens,
                output_left=seat.expected_tokens,
            )

    def freed(self, request_id: UUID) -> None:
        """Forget a seat that was freed; others may have its node."""
        if (seat := self._held.pop(request_id, None)) is not None:
            self.view.left(request_id, seat.node)
        if self._waiters:
            self._hurry.set()

    def queued_at(self, request_id: UUID) -> datetime | None:
        """When the request took its seat."""
        seat = self._held.get(request_id)
        return None if seat is None else seat.queued_at

    def holds(self, request_id: UUID) -> bool:
        return request_id in self._held

    def waits(self, request_id: UUID, model: str) -> Waiter:
        """Announce a request that waits for a node; call `waits_no_more` at the end."""
        waiter = self._waiters[request_id] = Waiter(request_id, model)
        self._run()
        self._hurry.set()
        return waiter

    def waits_no_more(self, request_id: UUID) -> None:
        self._waiters.pop(request_id, None)

    # -- what this process learns -----------------------------------------------------------------------

    def first_token(self, request_id: UUID, at: datetime) -> None:
        self.outbox.first_tokens[request_id] = at
        if (seat := self._held.get(request_id)) is not None:
            self.view.prefilled(request_id, seat.node)
        self._run()

    def computed(self, node: str, digests: tuple[int, ...]) -> None:
        self.view.computed(node, digests)
        self.outbox.computed(node, digests)
        self._run()

    def history(self, payer: str, endpoint: str) -> History:
        """What is known of this payer's answers; what is not is read with the next exchange, for later requests."""
        known = self._histories.get((payer, endpoint))
        if known is None or time.monotonic() - known[0] > HISTORY_S:
            self._wanted.add((payer, endpoint))
        return History() if known is None else known[1]

    async def aclose(self) -> None:
        """End the exchange."""
        tasks = [task for task in (self._loop, self._exchanging) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the exchange -----------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._exchange_while_needed())

    async def _exchange_while_needed(self) -> None:
        while True:
            self._hurry.clear()
            try:
                await self._exchange_once()
                await self._keep()
            except DATABASE_AWAY as error:
                logger.warning("the shared view of the pool could not be read: %s", error)
            if not self._held and not self._waiters and self.outbox.is_empty():
                return
            pause = WAITING_EXCHANGE_S if self._waiters else EXCHANGE_S
            try:
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    async def _exchange_once(self) -> None:
        """Join the exchange that runs, or start one."""
        if self._exchanging is None or self._exchanging.done():
            self._exchanging = asyncio.create_task(self._exchange())
        await asyncio.shield(self._exchanging)

    async def _exchange(self) -> None:
        sending, self.outbox = self.outbox, Outbox()
        try:
            view: View = await in_database(
                exchange.exchange, process=self.process, outbox=sending, blocks_since=self._read_at
            )
        except BaseException:
            self.outbox.take_back(sending)
            raise
        now = time.monotonic()
        if now - self._spoke_at > seats.LEASE_S / 2:
            self._since = now
            self._was_silent = bool(self._held)  # others may have taken this process for dead
        self._spoke_at = now
        self._read_at = view.read_at
        self.view.update(view)
        self._pool.sync(view.nodes)
        self._wake(view)
        if now - self._rated_at > KEEPING_S:
            self.view.update_rates(*await in_database(_read_rates))
            self._rated_at = now
        await self._read_histories()

    async def _read_histories(self) -> None:
        wanted, self._wanted = self._wanted, set()
        for payer, endpoint in wanted:
            found = await in_database(exchange.history_of, payer=payer, endpoint=endpoint)
            self._histories[payer, endpoint] = (time.monotonic(), found)
            self._histories.move_to_end((payer, endpoint))
        while len(self._histories) > MOST_HISTORIES:
            self._histories.popitem(last=False)

    def _wake(self, view: View) -> None:
        """Tell waiting requests whose turn it may be to ask. The database decides."""
        for model in {waiter.model for waiter in self._waiters.values()}:
            free = sum(
                max(node.facts.slots - self.view.seats_at(node.key).running, 0)
                for node in self._pool.usable(model)
            )
            for request_id in view.next_ones.get(model, ())[:free]:
                if (waiter := self._waiters.get(request_id)) is not None:
                    waiter.turn.set()

    async def _keep(self) -> None:
        """Write this process's seats again if it was silent, and free those that no process holds."""
        now = time.monotonic()
        if self._was_silent:
            await self._restore()
        if now - self._kept_at <= KEEPING_S:
            return
        at = timezone.now()
        # What is seated while this runs is too young to be freed.
        unknown = await in_database(
            exchange.free_unknown,
            process=self.process,
            held=list(self._held),
            queued_before=at - FORGET_AFTER,
        )
        # A silence of the others counts only while this process could have heard them.
        could_hear = now - self._since > seats.LEASE_S
        silent_since = at - timedelta(seconds=seats.LEASE_S)
        lost = await in_database(seats.free_lost, silent_since=silent_since) if could_hear else 0
        if unknown or lost:
            logger.warning("freed seats: %d unknown, %d of web processes that are gone", unknown, lost)
        self._kept_at = now

    async def _restore(self) -> None:
        held = list(self._held.values())
        restored = await in_database(exchange.restore, process=self.process, held=held)
        self._was_silent = False
        if ended := [seat.request_id for seat in held if seat.request_id not in self._held]:
            await in_database(seats.free, ended)
        if restored:
            logger.warning("%d seats that others had freed were restored", restored)


async def give_up(sharing: Sharing, request_id: UUID) -> None:
    """Free the seat of a request that was not admitted. What fails here is freed by the process's next comparison."""
    try:
        await in_database(seats.free, [request_id])
    except DATABASE_AWAY as error:
        logger.warning("the seat of request %s was not freed: %s", request_id, error)
    finally:
        sharing.freed(request_id)


def pool_and_sharing() -> tuple[NodePool, Sharing]:
    """The pool of the running event loop and its part in the shared view, created at first use."""
    pool = node_pool()
    sharing = _sharings.get(pool)
    if sharing is None:
        sharing = _sharings[pool] = Sharing(pool)
    return pool, sharing


_sharings: WeakKeyDictionary[NodePool, Sharing] = WeakKeyDictionary()


def _read_rates() -> tuple[dict[tuple[str, str, str], Counted], dict[tuple[str, str], Rates]]:
    now = timezone.now()
    sums = rates.node_sums(now)
    kinds: Sequence[tuple[str, str]] = sorted({(model, kind) for _, model, kind in sums if kind})
    return sums, {(model, kind): rates.measured(model, kind, now=now) for model, kind in kinds}
