"""The relay reaches a node's own socket and no other, whatever the node puts in its place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.confined_node.relay import Relay

NAME = "http.sock"


async def answered(folder: Path, path: Path, *, said: bytes = b"hello") -> bytes:
    """What a client of the relay gets while a server at `path` says `said` to all who connect."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        listener = socket.create_server(("127.0.0.1", 0))
        relay = Relay(listener, folder, NAME)
        await relay.start()
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                return await reader.read()
            finally:
                writer.close()
        finally:
            relay.close()


def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


async def test_a_nodes_socket_is_reached(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    assert await answered(folder, folder / NAME) == b"hello"


def link(folder: Path, target: Path) -> None:
    (folder / NAME).symlink_to(target)


def file(folder: Path, target: Path) -> None:
    (folder / NAME).write_bytes(b"no socket")


@pytest.mark.parametrize("put", [link, file])
async def test_a_hostile_node_leads_the_relay_to_no_other_socket(
    tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    """As root the relay could reach every socket of the host, such as a database's."""
    folder, other = run_folder(tmp_path), tmp_path / "other.sock"
    put(folder, other)
    assert await answered(folder, other, said=b"secret") == b""
