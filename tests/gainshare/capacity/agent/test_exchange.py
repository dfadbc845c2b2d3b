"""One exchange with a server that means no good: bounded in bytes and time, nothing unpacked, no other address asked."""

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress

import pytest

from gainshare.capacity.agent.exchange import Direct, Question, TooLong, Unanswered

MOST = 1000
Server = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def asked(server: Server, *, token: str = "secret", limit_s: float = 5.0) -> tuple[int, bytes]:
    """The answer of a server that gets the request's bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):  # the other side may have had enough
            await server(await reader.readuntil(b"\r\n\r\n"), writer)

    async def ask() -> tuple[int, bytes]:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        asker = Direct(step_s=1.0, limit_s=limit_s, by_environment=False)
        try:
            return await asker.ask(Question("GET", f"http://127.0.0.1:{port}/x", token, MOST))
        finally:
            await asker.aclose()
            listening.close()

    return asyncio.run(ask())


def saying(status: str, body: bytes, *headers: str) -> Server:
    async def server(request: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return server


def test_an_answer_of_the_allowed_length_arrives_and_a_longer_one_does_not() -> None:
    assert asked(saying("200 OK", b"x" * MOST)) == (200, b"x" * MOST)
    with pytest.raises(TooLong):
        asked(saying("200 OK", b"x" * (MOST + 1)))


def test_nothing_is_unpacked() -> None:
    packed = gzip.compress(b"x" * 100_000)
    assert asked(saying("200 OK", packed, "Content-Encoding: gzip")) == (200, packed)


def test_the_token_goes_to_no_other_address() -> None:
    requests: list[bytes] = []

    async def server(request: bytes, writer: asyncio.StreamWriter) -> None:
        requests.append(request)
        await saying("302 Found", b"", "Location: /elsewhere")(request, writer)

    assert asked(server) == (302, b"")
    assert len(requests) == 1 and b"Bearer secret" in requests[0]


def test_byte_after_byte_is_no_answer() -> None:
    async def server(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    began = time.monotonic()
    with pytest.raises(Unanswered):
        asked(server, limit_s=1.5)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "said",
    [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nx", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500_000],
    ids=["nothing", "no HTTP", "cut", "long header"],
)  # fmt: skip
def test_what_is_no_answer_is_told_without_the_token(said: bytes) -> None:
    async def server(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    with pytest.raises(Unanswered) as why:
        asked(server)
    assert "secret" not in str(why.value) and len(str(why.value)) <= 200


@pytest.mark.parametrize("token", ["two\nlines", "naïve", "\0"])
def test_a_token_that_no_header_can_have_is_told(token: str) -> None:
    with pytest.raises(Unanswered) as why:
        asked(saying("200 OK", b"{}"), token=token)
    assert str(why.value) == "the token has characters that cannot be sent"
