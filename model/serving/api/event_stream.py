"""Reads server-sent events as OpenAI-compatible servers write them: one JSON document a line. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

DONE = b"[DONE]"


class BrokenStreamError(Exception):
    """A stream that ended before its [DONE], or has an event that is not a JSON object."""


async def lines(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The lines of a body, split at LF only; a CR before it is white space around the JSON."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
    yield rest


async def documents(pieces: AsyncIterable[bytes]) -> AsyncGenerator[dict[str, Any]]:
    """The JSON objects of a stream before its [DONE]. Raises BrokenStreamError."""
    async for line in lines(pieces):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == DONE:
            return
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BrokenStreamError(f"an event is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise BrokenStreamError("an event is not a JSON object")
        yield document
    raise BrokenStreamError("the stream ended without [DONE]")
