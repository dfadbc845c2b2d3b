"""Nodes that misbehave on purpose, for gateways in processes of their own: their event loop runs in a thread."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.gainshare.gateway.nodes.misbehaving import StandIn


@contextmanager
def stand_ins(count: int) -> Iterator[list[StandIn]]:
    """So many nodes, which answer whole until told otherwise."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> list[StandIn]:
        nodes = [StandIn() for _ in range(count)]
        for node in nodes:
            await node.start()
        return nodes

    async def close(nodes: list[StandIn]) -> None:
        for node in nodes:
            await node.server.close()

    nodes = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield nodes
    finally:
        asyncio.run_coroutine_threadsafe(close(nodes), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
