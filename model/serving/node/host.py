"""Host of the served model: load it, swap it for another without a gap, and shut down in order.

At most one model is current. A swapped-out one finishes its requests and is then stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from model.serving.api.errors import ApiError, LoadError, not_now
from model.serving.node.backend import Ask, Backend, Piece, Running
from model.serving.node.freed_memory import return_freed_memory

log = logging.getLogger(__name__)

DRAIN_RETRY_S = 2

OnDeath = Callable[[Exception], None]  # called from any thread when a backend can never answer again
Load = Callable[
    [str | None, OnDeath], Backend
]  # on a worker thread; None: the model that the node was started with


class InFlight:
    """Number of one model's requests in progress. Requests hold this object and not the model."""

    def __init__(self) -> None:
        self.n = 0
        self._ended = asyncio.Event()

    def begin(self) -> None:
        self.n += 1

    def end(self) -> None:
        self.n -= 1
        self._ended.set()

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no request is in progress; False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.n:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            return False
        return True


class Deployment:
    """One loaded model and its number of requests in progress."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.created = int(time.time())
        self.answering = InFlight()

    @property
    def n_answering(self) -> int:
        return self.answering.n

    async def start(self, ask: Ask) -> Running:
        """As `Backend.start`; the request is in progress until its last piece is taken or it is cancelled."""
        self.answering.begin()
        try:
            return _Counted(await self.backend.start(ask), self.answering)
        except BaseException:
            self.answering.end()
            raise


class _Counted:
    """A running request that reports its end once: complete or cancelled."""

    def __init__(self, running: Running, answering: InFlight) -> None:
        self._running, self._answering, self._has_ended = running, answering, False

    async def pieces(self) -> AsyncIterator[Piece]:
        async for piece in self._running.pieces():
            yield piece
        self._end()  # before the caller closes the answer: a client that has read it to its end finds the model idle

    def cancel(self) -> None:
        self._running.cancel()
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._answering.end()


@dataclass(frozen=True)
class Swapped:
    """Result of a swap."""

    model: str
    previous: str
    load_ms: int


class Host:
    """Loads, swaps and stops models. Everything but `load` runs on one event loop."""

    def __init__(self, load: Load, *, drain_s: float, on_failure: Callable[[], None]) -> None:
        self._load, self._drain_s, self._on_failure = load, drain_s, on_failure
        self.deployment: Deployment | None = None
        self._retiring: dict[asyncio.Task[None], Deployment] = {}
        self._swapping = asyncio.Lock()
        self.is_draining = False
        self.is_loading = False  # on a thread, which cannot be interrupted
        self.failure: Exception | None = None
        self.n_swaps = 0

    @property
    def current(self) -> Deployment:
        """The current model. Raises ApiError (503) before one is loaded."""
        if self.deployment is None:
            raise not_now("loading", "the model is loading")
        return self.deployment

    def accepting(self) -> Deployment:
        """The model that takes a new request. Raises ApiError (503) while there is none."""
        if self.is_draining:
            message = "this node is shutting down and accepts no new requests"
            raise not_now("shutting_down", message, retry_s=DRAIN_RETRY_S)
        return self.current

    async def start(self) -> None:
        """Load the first model. An error is kept in `failure` and passed to `on_failure`."""
        try:
            self.deployment = await self._loaded(None)
        except Exception as error:
            self._fail(error)

    async def swap(self, model: str) -> Swapped:
        """Load `model` while the current one serves, and switch when it is ready.

        Raises ApiError with the current one still serving: 404 where there is no such model, 422 where it cannot be
        used, 507 where it does not fit into memory, 409 during another swap, 503 before the first model is loaded and
        once the node was told to end, 500 for an unforeseen error.
        """
        self._check_no_swap()
        async with self._swapping:
            await asyncio.gather(*self._retiring)
            previous = self.accepting()
            started = time.monotonic()
            try:
                deployment = await self._loaded(model)
            except LoadError as error:
                raise ApiError(
                    error.status, error.code, f"{error}; {previous.backend.name} still serves"
                ) from error
            except Exception as error:
                log.exception("%s could not be loaded", model)
                message = (
                    f"{model} could not be loaded, see the node's log; {previous.backend.name} still serves"
                )
                raise ApiError(500, "swap_failed", message, kind="server_error") from error
            if self.is_draining:  # the node was told to end while the model loaded
                await deployment.backend.stop()
                self.accepting()  # raises the reason
            self.deployment = deployment
            self.n_swaps += 1
            self._retire(previous)
        load_ms = int((time.monotonic() - started) * 1000)
        log.info("%s took over from %s", deployment.backend.name, previous.backend.name)
        return Swapped(deployment.backend.name, previous.backend.name, load_ms)

    def _check_no_swap(self) -> None:
        """Raises ApiError during another swap: three models at once would be too much for memory."""
        is_answering = any(deployment.n_answering for deployment in self._retiring.values())
        if self._swapping.locked() or is_answering:
            what = (
                "the previous model still answers requests" if is_answering else "another swap is in progress"
            )
            raise ApiError(409, "swap_in_progress", f"{what}: try again when it has ended", kind="conflict")

    async def _loaded(self, model: str | None) -> Deployment:
        # weak: the backend keeps `on_death`, and would so keep itself in memory after a swap
        made: list[weakref.ref[Deployment]] = []
        loop = asyncio.get_running_loop()

        def on_death(error: Exception) -> None:
            loop.call_soon_threadsafe(self._died, made, error)

        def load() -> Backend:
            try:
                return self._load(model, on_death)
            finally:
                self.is_loading = False

        self.is_loading = True
        deployment = Deployment(await asyncio.to_thread(load))
        made.append(weakref.ref(deployment))
        return deployment

    def _died(self, made: list[weakref.ref[Deployment]], error: Exception) -> None:
        """Handle a backend that ended by itself: fatal if it is the current one."""
        if made and self.deployment is not None and made[0]() is self.deployment:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._on_failure()

    def _retire(self, deployment: Deployment) -> None:
        task = asyncio.create_task(self._end(deployment))
        self._retiring[task] = deployment
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Free a swapped-out model, whose backend must have no other references."""
        del self._retiring[task]
        return_freed_memory()

    async def _end(self, deployment: Deployment) -> None:
        name = deployment.backend.name
        if not await deployment.answering.idle(self._drain_s):
            log.warning("%s is stopped with %d requests unanswered", name, deployment.n_answering)
        await deployment.backend.stop()

    async def drain(self) -> None:
        """Accept nothing new, let running answers end for at most `drain_s`, then end the rest."""
        self.is_draining = True
        ending = [self._end(self.deployment)] if self.deployment is not None else []
        await asyncio.gather(*ending, *self._retiring, return_exceptions=True)

    async def stop(self) -> None:
        """End at once."""
        self.is_draining = True
        for task in self._retiring:
            task.cancel()
        if self.deployment is not None:
            await self.deployment.backend.stop()
