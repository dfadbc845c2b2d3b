"""Keeps a bounded part of what a sandbox writes to stderr, without ever blocking it or filling our memory.

The beginning can be taken while the sandbox runs, the end once it is over, however it ended. What is handed out as text
is safe to print: nothing in it moves a terminal's cursor, or turns the reading order of a page around.
"""

from __future__ import annotations

import codecs
import io
import os
import threading
from collections import deque
from typing import IO, BinaryIO

from benchmarks.sandbox.readable import readable

CHUNK_BYTES = 8192
CLOSE_TIMEOUT_S = 5.0
#: A line longer than this is handed out in pieces.
MAX_LINE_CHARACTERS = 2000
CUT = b"\n[... log cut here: the sandbox wrote more than is kept ...]\n"


class LogCapture:
    """Drains `source` in a thread: forwards the first `limit` bytes to `sink`, keeps beginning and end in memory.

    Past ten times the limit the pipe is closed: every further write gets EPIPE, and costs the judge nothing more.
    """

    def __init__(self, source: IO[bytes], sink: BinaryIO | None, limit: int) -> None:
        self._source = source
        self._sink = sink
        self._limit = limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._total = 0
        self._taken = 0
        self._has_ended = False
        self._end_taken = False
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(utf8, translate=True)  # a return begins a line, too
        self._line = ""  # begun, and not handed out yet
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="sandbox-log", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._source:
            while self._total < 10 * self._limit:
                chunk = os.read(self._source.fileno(), CHUNK_BYTES)
                if not chunk:
                    break
                self._keep(chunk)
        self._has_ended = True

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

    def _end(self) -> bytes:
        """End of the log, with a mark before it where something was cut."""
        tail = b"".join(self._tail)[-max(1, self._limit // 2) :]
        is_cut = self._total > len(self._head) + len(tail)
        return (CUT if is_cut else b"") + tail

    def kept(self) -> bytes:
        """Beginning and end, with a mark between them where something was cut. At most the limit and one mark."""
        with self._lock:
            return bytes(self._head) + self._end()

    def take(self) -> str:
        """Take the whole lines that were not taken before, readable. The end of a long log comes once the writers are gone.

        All that is ever taken is what `kept` has at last. From any thread, one at a time.
        """
        with self._lock:
            content, self._taken = bytes(self._head[self._taken :]), len(self._head)
            is_last = self._has_ended and not self._end_taken
            if is_last:
                self._end_taken = True
                content += self._end()
            self._line += self._decoder.decode(content, final=is_last)
            cut = len(self._line) if is_last else self._line.rfind("\n") + 1
            if len(self._line) - cut > MAX_LINE_CHARACTERS:
                cut = len(self._line)
            text, self._line = self._line[:cut], self._line[cut:]
        return readable(text)

    def close(self) -> None:
        """Waits until everything written was read. Call after the writers are gone: one that escaped a kill (level
        NONE) is not waited for.
        """
        self._thread.join(CLOSE_TIMEOUT_S)
        self._has_ended = True
