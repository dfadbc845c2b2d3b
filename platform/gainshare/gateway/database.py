"""Runs the gateway's database work outside the event loop, in a few threads with persistent connections.

Django would open a connection per request, which would use most of the gateway's latency budget before the
first token. A connection that a server restart has broken is replaced and the call repeated once; every
service of the ledger and of the gateway is idempotent by id.
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
    """Run `function(*args, **kwargs)` in one of the gateway's threads."""

    def call() -> T:
        try:
            return function(*args, **kwargs)
        except (OperationalError, InterfaceError):
            connection.close()
            return function(*args, **kwargs)

    return await sync_to_async(call, thread_sensitive=False, executor=_threads)()


def close_connections() -> None:
    """Close the connection of every thread, which dropping a test database requires."""
    barrier = Barrier(THREADS)

    def close() -> None:
        barrier.wait(timeout=30)
        connection.close()

    closing: list[Future[None]] = [_threads.submit(close) for _ in range(THREADS)]
    for future in closing:
        future.result()
