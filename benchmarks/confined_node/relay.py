"""Passes connections of a loopback port on to a unix socket, both ways, until either side ends."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from benchmarks.confined_node.sockets import connect

CHUNK_BYTES = 64 * 1024


class Relay:
    """Serves `listener` by the socket `name` of `folder`, which belongs to the node: it may be hostile.

    A connection is closed at once while nothing listens there.
    """

    def __init__(self, listener: socket.socket, folder: Path, name: str) -> None:
        self._listener, self._folder, self._name = listener, folder, name
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    def close(self) -> None:
        """Stop listening; connections that are open stay."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connected = await asyncio.to_thread(connect, self._folder, self._name)
            from_node, to_node = await asyncio.open_unix_connection(sock=connected)
        except OSError:
            writer.close()
            return
        passing = [
            asyncio.create_task(_pass_on(reader, to_node)),
            asyncio.create_task(_pass_on(from_node, writer)),
        ]
        try:
            # The node's end ends the connection; the client's may be only of its request.
            await asyncio.wait({passing[1]})
        finally:
            for task in passing:
                task.cancel()
            for end in (writer, to_node):
                end.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass the end on. A broken connection is an end, too."""
    with suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    with suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
