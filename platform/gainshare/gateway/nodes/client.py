"""What nodes answer over HTTP: chunks of streams, counts of prompts, and refusals in the gateway's terms."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from gainshare.gateway.errors import (
    BadRequest,
    ContextTooLong,
    DeadlineMissed,
    GatewayError,
    NodeFailed,
    NodeUnavailable,
    UnknownModel,
)
from model.serving.api.event_stream import BrokenStreamError, documents

logger = logging.getLogger(__name__)

DRAIN_S = 1.0  # how long a node may take to close an answer after its last event
UNREACHABLE = (aiohttp.ClientError, TimeoutError)


class NodeStreamError(Exception):
    """The node's stream broke off; the message is for the log."""


class DeadlinePassed(NodeStreamError):
    """The node did not begin the answer before the deadline that the request named."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Length of a prompt and of the model's context, in tokens."""

    prompt_tokens: int
    max_context: int


async def chunks_of(body: aiohttp.StreamReader) -> AsyncGenerator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, up to and without `[DONE]`."""
    try:
        async with aclosing(documents(body.iter_any())) as chunks:
            async for chunk in chunks:
                if "error" in chunk:
                    raise _reported(chunk["error"])
                yield chunk
    except (*UNREACHABLE, BrokenStreamError) as error:
        raise NodeStreamError(f"{type(error).__name__}: {error}") from None
    await _drain(body)


def token_count(content: bytes) -> TokenCount:
    """Parse a node's answer to a count of a prompt. Raises `NodeFailed` if it is malformed."""
    try:
        body = json.loads(content)
        return TokenCount(_count(body["count"]), _count(body["max_context"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("a node counts with %.200r", content)
        raise NodeFailed(
            "The model node did not count the prompt. Nothing is charged; try again shortly."
        ) from error


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is not a count of tokens")
    return value


def refusal(status: int, content: bytes) -> GatewayError:
    """Convert a node's error: errors that the user can fix are kept, all others become the node's failure."""
    try:
        error = json.loads(content)["error"]
        message, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code, param = f"HTTP {status}", None, None
    if code == ContextTooLong.code:
        return ContextTooLong(message, param=param)
    if code == DeadlineMissed.code:
        return DeadlineMissed(
            "The deadline of the request passed before its answer began. Nothing is charged."
        )
    if status == 404:
        return UnknownModel(message, param="model")
    if status in {400, 413, 422}:
        return BadRequest(message, param=param, code=code)
    if status in {429, 503}:
        return NodeUnavailable("The model node is busy or still loading. Try again shortly.")
    return NodeFailed(f"The model node failed (HTTP {status}).")


def _reported(error: Any) -> NodeStreamError:
    is_late = isinstance(error, dict) and error.get("code") == "deadline_exceeded"
    return (DeadlinePassed if is_late else NodeStreamError)(f"the node reported: {str(error)[:500]}")


async def _drain(body: aiohttp.StreamReader) -> None:
    """Read a complete answer to its end, so that its connection can be reused."""
    with suppress(*UNREACHABLE):
        async with asyncio.timeout(DRAIN_S):
            while await body.readany():
                pass
