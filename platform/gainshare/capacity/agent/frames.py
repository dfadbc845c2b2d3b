"""Frames between an agent and the process that speaks for it: a small JSON head, then bytes. The lengths come first."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import Any

_LENGTHS = struct.Struct(">II")  # of head and body, in bytes
MAX_HEAD_BYTES = 64 * 1024


class BadFrame(Exception):
    """What came is no frame: the other side does not do what it was made for."""


def frame(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return _LENGTHS.pack(len(text), len(body)) + text + body


async def read_head(reader: asyncio.StreamReader) -> tuple[dict[str, Any], int]:
    """The next frame's head, and its body's length. Raises BadFrame, asyncio.IncompleteReadError at the end."""
    n_head, n_body = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    if n_head > MAX_HEAD_BYTES:
        raise BadFrame(f"a head of {n_head} bytes")
    try:
        head = json.loads(await reader.readexactly(n_head))
    except (ValueError, RecursionError) as error:
        raise BadFrame("a head that is not JSON") from error
    if not isinstance(head, dict):
        raise BadFrame("a head that is not an object")
    return head, n_body
