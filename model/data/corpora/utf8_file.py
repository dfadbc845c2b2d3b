"""Read text files; errors name the file and the place of what is not UTF-8."""

from __future__ import annotations

from codecs import getincrementaldecoder
from pathlib import Path

CHUNK_BYTES = 1 << 20


class NotUTF8Error(Exception):
    """A file that is not UTF-8; the message names it, the byte and its offset. The caller adds what to do."""


def read_utf8(file: Path) -> str:
    """Read a text file, with line ends as `Path.read_text`. Raises NotUTF8Error, OSError."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        check_utf8(file)
        raise NotUTF8Error(f"{file} changed while it was read") from None


def check_utf8(file: Path) -> None:
    """Check a file of any size in chunks. Raises NotUTF8Error at the first byte that is not UTF-8, and OSError."""
    decoder = getincrementaldecoder("utf-8")()
    with file.open("rb") as stream:
        n_before = 0  # bytes of earlier chunks
        while True:
            chunk = stream.read(CHUNK_BYTES)
            pending = decoder.getstate()[0]  # of a character that began in the chunk before
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                byte, offset = (pending + chunk)[error.start], n_before - len(pending) + error.start
                message = f"{file} is not UTF-8 text: byte {byte:#04x} at offset {offset:,} ({error.reason})"
                raise NotUTF8Error(message) from None
            if not chunk:
                return
            n_before += len(chunk)
