"""Keeps a bounded part of what a sandbox writes to stderr, without ever blocking it or filling our memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import IO, BinaryIO

CHUNK_BYTES = 8192
CLOSE_TIMEOUT_S = 5.0
CUT = b"\n[... log cut here: the sandbox wrote more than is kept ...]\n"


class LogCapture:
    """Drains `source` in a thread: forwards the first `limit` bytes to `sink`, keeps beginning and end in memory.

    Past ten times the limit the pipe is closed: whoever still writes gets EPIPE, and costs the judge nothing more.
    """

    def __init__(self, source: IO[bytes], sink: BinaryIO | None, limit: int) -> None:
        self._source = source
        self._sink = sink
        self._limit = limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._total = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="sandbox-log", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._source:
            while self._total < 10 * self._limit:
                chunk = os.read(self._source.fileno(), CHUNK_BYTES)
                if not chunk:
                    return
                self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        with self._lock:
            before, self._total = self._total, self._total + len(chunk)
            room = max(0, self._limit - before)
            if self._sink is not None and room:
                self._sink.write(chunk[:room])
                if self._total > self._limit:
                    self._sink.write(CUT)
                self._sink.flush()
            half = self._limit // 2
            head_room = max(0, half - len(self._head))
            self._head += chunk[:head_room]
            if rest := chunk[head_room:]:
                self._tail.append(rest)
                self._tail_bytes += len(rest)
            while self._tail and self._tail_bytes - len(self._tail[0]) >= half:
                self._tail_bytes -= len(self._tail.popleft())

    def kept(self) -> bytes:
        """Beginning and end, with a mark between them where something was cut. At most the limit and one mark."""
        with self._lock:
            tail = b"".join(self._tail)[-max(1, self._limit // 2) :]
            is_cut = self._total > len(self._head) + len(tail)
            return bytes(self._head) + (CUT if is_cut else b"") + tail

    def close(self) -> None:
        """Waits until everything written was read. Call after the writers are gone: one that escaped a kill (level
        NONE) is not waited for.
        """
        self._thread.join(CLOSE_TIMEOUT_S)
