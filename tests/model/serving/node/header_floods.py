"""Requests whose heads never end, over a real socket, and what they cost the process that reads them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
FLOOD_BYTES = 64 * MIB
START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\n"
FIELDS = b"".join(b"X-Field-%06d: %s\r\n" % (i, b"v" * 40) for i in range(1000))
FLOODS = {
    "many fields": (START, FIELDS),
    "one line without an end": (START + b"X-Long: ", b"v" * (64 << 10)),
    "one name without an end": (START, b"x" * (64 << 10)),
    "an address without an end": (b"GET /", b"a" * (64 << 10)),
    "empty lines": (b"\r\n", b"\r\n" * (32 << 10)),
    "trailers": (START + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", FIELDS),
    "a chunk's extension without an end": (
        START + b"Transfer-Encoding: chunked\r\n\r\n2;",
        b"x" * (64 << 10),
    ),
}


@dataclass(frozen=True)
class Cost:
    """What a flood took, and the answer that it got."""

    sent_bytes: int
    cpu_s: float
    grown_bytes: int
    answer: bytes


def flood(port: int, pid: int, start: bytes, more: bytes) -> Cost:
    """Sends `FLOOD_BYTES` of it or as much as the server takes."""
    cpu_s, memory = cpu_seconds(pid), peak_bytes(pid)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        sent = _send(connection, (start, *[more] * (FLOOD_BYTES // len(more))))
        answer = received(connection)
    return Cost(sent, cpu_seconds(pid) - cpu_s, peak_bytes(pid) - memory, answer)


def _send(connection: socket.socket, parts: Iterable[bytes]) -> int:
    sent = 0
    for part in parts:
        try:
            connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            return sent
        sent += len(part)
    return sent


def received(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    parts: list[bytes] = []
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
