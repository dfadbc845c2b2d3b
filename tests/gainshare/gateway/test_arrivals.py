"""Chunks are stamped when they come, whether or not the client takes them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from gainshare.gateway.arrivals import MOST_AHEAD, NS_PER_HOUR, ArrivalClock, Arrivals, Moment

Chunk = dict[str, Any]


class Bench:
    """A node's stream, whose chunks come when the test says so, and a clock that it moves."""

    def __init__(self) -> None:
        self.passed_ns = 0
        self.sent: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()
        clock = ArrivalClock(lambda: 23 * NS_PER_HOUR, lambda: self.passed_ns)
        self.n_read = 0
        self.arrivals = Arrivals(self.stream(), clock)

    async def stream(self) -> AsyncIterator[Chunk]:
        while (chunk := await self.sent.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            self.n_read += 1
            yield chunk

    async def come(self, n: int) -> None:
        """Send `n` chunks and let the gateway read what it will."""
        for _ in range(n):
            self.sent.put_nowait({})
        for _ in range(3 * n + 10):
            await asyncio.sleep(0)

    async def take(self, n: int) -> list[Moment]:
        return [(await anext(self.arrivals))[0] for _ in range(n)]


def run(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        bench = Bench()
        try:
            await test(bench)
        finally:
            await bench.arrivals.aclose()

    asyncio.run(whole())


def test_a_client_that_waits_for_the_cheaper_hour_gains_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.come(10)  # at 23 o'clock; the client takes none
        bench.passed_ns += NS_PER_HOUR
        assert await bench.take(10) == [Moment(23, 0)] * 10
        await bench.come(1)
        assert await bench.take(1) == [Moment(0, NS_PER_HOUR)]

    run(test)


def test_a_client_far_behind_gets_no_hour_for_what_could_not_be_read() -> None:
    """The rest of its tokens costs the dearest hour; those of the hour in which it fell behind have that one."""

    async def test(bench: Bench) -> None:
        await bench.come(MOST_AHEAD + 50)
        assert bench.n_read == MOST_AHEAD + 1  # its memory is bounded
        bench.passed_ns += NS_PER_HOUR
        hours = [moment.hour for moment in await bench.take(MOST_AHEAD + 50)]
        assert hours == [23] * (MOST_AHEAD + 1) + [None] * 49

    run(test)


def test_a_client_far_behind_within_an_hour_pays_that_hour() -> None:
    async def test(bench: Bench) -> None:
        await bench.come(2 * MOST_AHEAD)
        hours = [moment.hour for moment in await bench.take(2 * MOST_AHEAD)]
        assert hours == [23] * 2 * MOST_AHEAD

    run(test)


def test_a_broken_stream_breaks_after_what_came_before() -> None:
    async def test(bench: Bench) -> None:
        await bench.come(2)
        bench.sent.put_nowait(RuntimeError("the node is gone"))
        assert len(await bench.take(2)) == 2
        with pytest.raises(RuntimeError, match="gone"):
            await anext(bench.arrivals)

    run(test)


def test_the_end_comes_after_every_chunk() -> None:
    async def test(bench: Bench) -> None:
        await bench.come(3)
        bench.sent.put_nowait(None)
        assert len([chunk async for chunk in bench.arrivals]) == 3

    run(test)


def test_closing_ends_the_reading_even_of_a_full_buffer() -> None:
    async def test(bench: Bench) -> None:
        await bench.come(MOST_AHEAD + 5)
        await asyncio.wait_for(bench.arrivals.aclose(), timeout=5)
        await bench.come(5)
        assert bench.n_read == MOST_AHEAD + 1

    run(test)
