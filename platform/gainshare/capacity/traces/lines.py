"""Lines of a trace file, bounded in length and number, and the digest of the whole file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gainshare.capacity.traces.errors import TraceError

MAX_LINE_BYTES = 1 << 20
"""A Mooncake line of a prompt of ten million tokens has a fifth of that."""

MAX_LINES = 2_000_000
MAX_FILE_BYTES = 1 << 30
CUT = "Cut the file into shorter ones, for example with `head`"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. ``number`` counts from 1."""

    number: int
    text: str
    has_end: bool


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A trace file that was opened once: its name and the lines that are not empty, with their numbers."""

    path: Path
    lines: tuple[Line, ...]
    digest: str

    def error(self, line: Line, what: str, advice: str) -> TraceError:
        return TraceError(self.path, what, advice, line=line.number)


def read_lines(path: Path) -> TraceFile:
    """Read a whole file. Raises TraceError for what is no text file of bounded size with at least one line."""
    if not path.is_file():
        raise TraceError(path, "there is no such file", "Check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TraceError(path, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", CUT)
    digest = hashlib.sha256()
    lines = tuple(_decoded(path, digest))
    if not lines:
        raise TraceError(path, "the file is empty", "Give a trace with at least one request")
    return TraceFile(path, lines, digest.hexdigest())


def _decoded(path: Path, digest: hashlib._Hash) -> Iterator[Line]:
    for number, raw in enumerate(_raw(path), start=1):
        digest.update(raw)
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise TraceError(
                path, "this is no text", "Unpack the file if it is compressed", line=number
            ) from None
        if stripped := text.strip():
            yield Line(number, stripped, has_end=raw.endswith(b"\n"))


def _raw(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number in range(1, MAX_LINES + 2):
            raw = file.readline(MAX_LINE_BYTES + 1)
            if not raw:
                return
            if len(raw) > MAX_LINE_BYTES:
                raise TraceError(
                    path,
                    f"the line is longer than {MAX_LINE_BYTES >> 10} KiB",
                    "Write one request a line",
                    line=number,
                )
            if number > MAX_LINES:
                raise TraceError(path, f"the file has more than {MAX_LINES:,} lines", CUT, line=number)
            yield raw
