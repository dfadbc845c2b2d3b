"""When a node's chunks arrive at the gateway, whatever the client does.

The hour of a token's arrival decides its price, so a client may not move it. Chunks are read from the node as they
come, up to `MOST_AHEAD` before the client takes them. If the client is further behind, the gateway stops reading, and
cannot tell when tokens would have arrived: those read in another hour than the one in which the client fell behind
have no known hour, which costs the dearest.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

MOST_AHEAD = 256  # chunks
NS_PER_HOUR = 3600 * 10**9


class Moment(NamedTuple):
    """A moment of a request: the hour of the day (UTC), None if it is not known, and nanoseconds since its beginning."""

    hour: int | None
    ns: int


class ArrivalClock:
    """The clock of one request. The time of day is read once: steps of the system's clock move nothing afterwards."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._began_wall_ns, self._began_ns = wall_ns(), monotonic_ns()
        self._passed_ns = 0

    def now(self) -> Moment:
        """The present moment, never before an earlier one."""
        self._passed_ns = max(self._passed_ns, self._monotonic_ns() - self._began_ns)
        return Moment((self._began_wall_ns + self._passed_ns) // NS_PER_HOUR % 24, self._passed_ns)


class Arrivals:
    """Iterator over a stream's chunks, each with the moment of its arrival. `aclose` ends the reading."""

    def __init__(self, stream: AsyncIterator[dict[str, Any]], clock: ArrivalClock) -> None:
        self._stream, self._clock = stream, clock
        self._chunks: asyncio.Queue[tuple[Moment, dict[str, Any]] | Exception] = asyncio.Queue(MOST_AHEAD)
        self._fell_behind: Moment | None = None
        self._reading = asyncio.create_task(self._read())

    def __aiter__(self) -> "Arrivals":
        return self

    async def __anext__(self) -> tuple[Moment, dict[str, Any]]:
        """The next chunk. Raises what the stream raised, after all chunks before it."""
        came = await self._chunks.get()
        if isinstance(came, Exception):
            raise came
        return came

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        end: Exception = StopAsyncIteration()
        try:
            async for chunk in self._stream:
                moment = self._arrived()
                await self._chunks.put((moment, chunk))
        except Exception as error:
            end = error
        await self._chunks.put(end)

    def _arrived(self) -> Moment:
        """The moment of a chunk that was just read."""
        now = self._clock.now()
        if self._fell_behind is None:
            self._fell_behind = now if self._chunks.full() else None
            return now
        return now if now.hour == self._fell_behind.hour else Moment(None, now.ns)
