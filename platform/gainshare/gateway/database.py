"""Runs the gateway's database work beside the event loop: a few threads, each keeping its connection.

Django would open a connection per request and close it at its end; one round trip to connect is most of what the
gateway may add before the first token. A connection that a server restart has broken is replaced, and the call
repeated once: every service of the ledger and of the gateway is idempotent by id.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError, connection

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
_threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="gateway-db")


async def in_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args, **kwargs)` in one of the gateway's threads."""

    def call() -> T:
        try:
            return function(*args, **kwargs)
        except (OperationalError, InterfaceError):
            connection.close()
            return function(*args, **kwargs)

    return await sync_to_async(call, thread_sensitive=False, executor=_threads)()


def close_connections() -> None:
    """Close the connection of every thread; a test database cannot be dropped before."""
    barrier = Barrier(THREADS)

    def close() -> None:
        barrier.wait(timeout=30)
        connection.close()

    closing: list[Future[None]] = [_threads.submit(close) for _ in range(THREADS)]
    for future in closing:
        future.result()
