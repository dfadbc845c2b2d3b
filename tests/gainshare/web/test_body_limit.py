"""Limits on request bodies, applied before anything else, with and without Content-Length."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from django.core.asgi import get_asgi_application

from gainshare.web.http.body_limit import with_body_limit

LIMITS = {"/": 1000, "/large/": 5000}


class Site:
    """Stands for the site: reads all, and says how much that was."""

    def __init__(self) -> None:
        self.was_asked = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.was_asked = True
        size, is_more = 0, True
        while is_more:
            message = await receive()
            size, is_more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})


async def sent(site: Any, path: str, content: Any) -> httpx.Response:
    transport = httpx.ASGITransport(with_body_limit(site, LIMITS))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.post(path, content=content)


async def pieces(number: int) -> AsyncIterator[bytes]:
    """A body of unannounced length, 100 bytes at a time."""
    for _ in range(number):
        yield b"x" * 100


@pytest.mark.parametrize(("path", "size"), [("/", 1000), ("/x", 0), ("/large", 1000), ("/large/x", 5000)])
async def test_what_fits_is_passed_on_whole(path: str, size: int) -> None:
    assert (await sent(Site(), path, b"x" * size)).text == str(size)
    assert (await sent(Site(), path, pieces(size // 100))).text == str(size)


@pytest.mark.parametrize(("path", "size"), [("/", 1001), ("/large", 1001), ("/large/x", 5001)])
async def test_an_announced_body_that_is_too_long_is_not_read(path: str, size: int) -> None:
    site = Site()
    answer = await sent(site, path, b"x" * size)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"
    assert not site.was_asked


async def test_an_unannounced_body_is_read_up_to_the_limit() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 100
            yield b"x" * 100

    transport = with_body_limit(Site(), LIMITS)
    messages: list[dict[str, Any]] = []
    body = endless()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    await transport({"type": "http", "path": "/", "headers": []}, receive, send)
    assert (messages[0]["status"], read) == (413, 1100)


async def test_the_site_itself_is_bounded() -> None:
    """Django hands on what it meets while it reads a body; were that to change, this would fail."""
    site = get_asgi_application()
    answer = await sent(site, "/login/", pieces(11))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_other_kinds_of_connections_are_passed_on() -> None:
    asked: list[str] = []

    async def site(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked.append(scope["type"])

    await with_body_limit(site, LIMITS)({"type": "lifespan"}, None, None)
    assert asked == ["lifespan"]
