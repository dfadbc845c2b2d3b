"""One bounded HTTP exchange: nothing is unpacked, followed or kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

import httpx


@dataclass(frozen=True, slots=True)
class Question:
    """A request with a bearer token. `content` is a JSON document to send, None for none. At most `most_bytes` are read."""

    method: str
    url: str
    token: str = field(repr=False)
    most_bytes: int
    content: bytes | None = None


class Unanswered(Exception):
    """No answer came, or none that is HTTP; the message says why."""


class TooLong(Exception):
    """The answer is longer than was asked for."""


class Asker(Protocol):
    """What can carry out an exchange."""

    async def ask(self, question: Question) -> tuple[int, bytes]:
        """The answer's status and body. Raises Unanswered or TooLong."""

    async def aclose(self) -> None:
        """Close all connections."""


class Direct:
    """Exchanges by this process itself: `step_s` for each step at most, `limit_s` in all.

    Proxies and certificates of the environment count with `by_environment`. Nodes need none: a proxy would see tokens.
    """

    def __init__(self, *, step_s: float, limit_s: float, by_environment: bool) -> None:
        self._limit_s = limit_s
        limits = httpx.Limits() if by_environment else httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(
            timeout=step_s, limits=limits, trust_env=by_environment, follow_redirects=False
        )

    async def ask(self, question: Question) -> tuple[int, bytes]:
        if not question.token.isascii() or not question.token.isprintable():
            raise Unanswered(
                "the token has characters that cannot be sent"
            )  # HTTP's own error would quote it
        headers = {"Authorization": f"Bearer {question.token}", "Accept-Encoding": "identity"}
        if question.content is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(self._limit_s),
                self._http.stream(
                    question.method, question.url, content=question.content, headers=headers
                ) as answer,
            ):
                return answer.status_code, await _body(answer, question.most_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise Unanswered(f"{type(error).__name__}: {error}"[:200]) from None

    async def aclose(self) -> None:
        await self._http.aclose()


async def _body(answer: httpx.Response, most_bytes: int) -> bytes:
    """The body as it was sent: what is not unpacked cannot grow. Raises TooLong."""
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > most_bytes:
            raise TooLong(f"the answer is longer than {most_bytes} bytes")
    return bytes(body)
