"""Requests to a node's own socket, any number at once, timed from the first byte sent to the last byte received.

One thread and no library between clock and socket: each request is one connection, whose end is the answer's. What
comes back is bytes that may hold anything; `answers` reads them.
"""

from __future__ import annotations

import gc
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.confined_node.sockets import connect

CHUNK_BYTES = 1 << 16
SEND_S = 30.0


class NotAnswered(Exception):
    """`kind` is an event's: "timeout", "too_large" or "crash"."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Reply:
    """One answer's bytes, head and all, and the nanoseconds from its first byte sent to its connection's end."""

    raw: bytes
    ns: int


@dataclass(frozen=True)
class Exchanged:
    """All replies, and the nanoseconds from the first byte sent to the end of the last connection."""

    replies: tuple[Reply, ...]
    ns: int


def exchange(
    folder: Path,
    name: str,
    requests: Sequence[bytes],
    *,
    limit_s: float,
    most_bytes: int,
    after_sending: Callable[[], None] = lambda: None,
) -> Exchanged:
    """Send all requests at once and read every answer to its end. Raises NotAnswered.

    `after_sending` is called once all requests wait in the sockets: a node that is thawed by it finds all of them.
    """
    selector = selectors.DefaultSelector()
    waiting = [_Waiting(request) for request in requests]
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        begin_ns = time.perf_counter_ns()
        for one in waiting:
            one.open(selector, folder, name)
        after_sending()
        _read_all(selector, begin_ns + int(limit_s * 1e9), most_bytes)
        return Exchanged(
            tuple(Reply(bytes(one.raw), one.ended_ns - one.sent_ns) for one in waiting),
            max(one.ended_ns for one in waiting) - begin_ns,
        )
    finally:
        for one in waiting:
            one.close(selector)
        selector.close()
        if was_enabled:
            gc.enable()


class _Waiting:
    """One request under way."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.raw = bytearray()
        self.sent_ns = self.ended_ns = 0
        self._socket: socket.socket | None = None

    def open(self, selector: selectors.BaseSelector, folder: Path, name: str) -> None:
        """Raises NotAnswered."""
        self.sent_ns = time.perf_counter_ns()
        try:
            self._socket = connect(folder, name)
            self._socket.settimeout(SEND_S)
            self._socket.sendall(self._request)
            self._socket.setblocking(False)
        except TimeoutError:
            raise NotAnswered("timeout", f"it did not take a request within {SEND_S:.0f} s") from None
        except OSError as error:
            raise NotAnswered("crash", f"its socket cannot be used: {error.strerror or error}") from None
        selector.register(self._socket, selectors.EVENT_READ, self)

    def read(self, selector: selectors.BaseSelector, most_bytes: int) -> None:
        """Take what has come. Raises NotAnswered for more than an answer can have."""
        assert self._socket is not None
        try:
            chunk = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise NotAnswered("crash", f"it broke a connection: {error.strerror or error}") from None
        self.ended_ns = time.perf_counter_ns()
        if not chunk:
            self.close(selector)
            return
        self.raw += chunk
        if len(self.raw) > most_bytes:
            raise NotAnswered("too_large", f"an answer has more than {most_bytes} bytes")

    def close(self, selector: selectors.BaseSelector) -> None:
        if self._socket is not None:
            with suppress(KeyError, ValueError):
                selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def _read_all(selector: selectors.BaseSelector, deadline_ns: int, most_bytes: int) -> None:
    while selector.get_map():
        left_ns = deadline_ns - time.perf_counter_ns()
        ready = selector.select(max(0.0, left_ns / 1e9)) if left_ns > 0 else []
        if not ready and time.perf_counter_ns() >= deadline_ns:
            raise NotAnswered("timeout", "an answer did not end in time")
        for key, _ in ready:
            key.data.read(selector, most_bytes)
