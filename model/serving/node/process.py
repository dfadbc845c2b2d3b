"""A node's process: the HTTP server that drains before it ends.

The first SIGTERM or SIGINT drains: the port stays open and answers new requests with 503 while running answers end, for
at most the host's drain time. The second one ends at once. A model that is still loading is not waited for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from model.serving.node.host import Host
from model.serving.node.request_heads import BoundedHeads

CLOSE_S = 3  # for connections that are still open after all answers ended


class DrainingServer(uvicorn.Server):
    """uvicorn's server with other signal handlers."""

    def __init__(self, app: Starlette, host: Host) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedHeads,
                ws="none",
                log_level="warning",
                timeout_graceful_shutdown=CLOSE_S,
                timeout_keep_alive=75,  # longer than a gateway's own, so that it closes idle connections first
                server_header=False,
            )
        )
        self._host = host
        self._is_asked = False
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # in a signal handler
        if self._is_asked:
            super().handle_exit(sig, frame)
        self._is_asked = True

    async def on_tick(self, counter: int) -> bool:
        if self._is_asked and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        await self._host.drain()
        self.should_exit = True


def serve(server: DrainingServer, host: Host, listener: socket.socket) -> None:
    """Serve until the server has ended. If a model is loading then, exit with status 0 at once: its thread cannot be
    interrupted, and Python would wait for it."""
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
        if host.is_loading:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(0)
