"""The clock's socket, against servers that answer as a hostile node could."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.canary.answers import Answer, Ask, Malformed, read_answer, read_object, request_bytes
from benchmarks.canary.exchange import NotAnswered, exchange

NAME = "http.sock"
Serve = Callable[[socket.socket], None]


@pytest.fixture
def served(short_folder: Path) -> Iterator[Callable[[Serve], Path]]:
    """Serves each connection of a socket by a function, on a thread of its own."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(short_folder / NAME))
    listener.listen(16)

    def start(serve: Serve) -> Path:
        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                serve(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=one, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return short_folder

    yield start
    listener.close()


def ask(folder: Path, count: int = 1, *, limit_s: float = 5.0, most_bytes: int = 10_000) -> Any:
    return exchange(folder, NAME, [b"question"] * count, limit_s=limit_s, most_bytes=most_bytes)


def test_all_answers_arrive_whole_with_their_times(served: Callable[[Serve], Path]) -> None:
    def serve(connection: socket.socket) -> None:
        assert connection.recv(100) == b"question"
        connection.sendall(b"first ")
        time.sleep(0.1)
        connection.sendall(b"last")

    done = ask(served(serve), 7)
    assert [reply.raw for reply in done.replies] == [b"first last"] * 7
    assert all(100_000_000 <= reply.ns <= done.ns for reply in done.replies)


def test_an_endless_answer_ends_at_its_limit(served: Callable[[Serve], Path]) -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x" * 1_000)

    with pytest.raises(NotAnswered) as caught:
        ask(served(serve))
    assert caught.value.kind == "too_large"


def test_silence_and_drops_end_at_the_time_limit(served: Callable[[Serve], Path]) -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    begin = time.monotonic()
    with pytest.raises(NotAnswered) as caught:
        ask(served(serve), limit_s=0.5)
    assert caught.value.kind == "timeout" and time.monotonic() - begin < 3


def test_a_socket_that_is_a_link_is_not_followed(served: Callable[[Serve], Path]) -> None:
    """A node owns its folder: a link could lead this process, which may be root, to another service."""
    folder = served(lambda connection: connection.sendall(b"another service"))
    (folder / NAME).rename(folder / "other.sock")
    (folder / NAME).symlink_to(folder / "other.sock")
    with pytest.raises(NotAnswered) as caught:
        ask(folder)
    assert caught.value.kind == "crash"
    (folder / NAME).unlink()
    (folder / NAME).write_bytes(b"a file")
    with pytest.raises(NotAnswered):
        ask(folder)


USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 0},
    "gainshare": {"queued_ms": 1, "prefill_ms": 2, "decode_ms": 3},
}


def stream(*events: Any, end: bool = True) -> bytes:
    lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events]
    body = "".join([*lines, *(["data: [DONE]\n\n"] if end else [])])
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body.encode("utf-8", "surrogatepass")


def chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": finish}], **more}


def test_a_stream_is_read() -> None:
    raw = stream(chunk("a"), chunk("b", "length"), {"choices": [], "usage": USAGE})
    assert read_answer(raw) == Answer("ab", "length", 3, 2, 0, 6)


def test_texts_ends_and_counts_each_change_the_digest() -> None:
    one = Answer("ab", "length", 3, 2, 0, 6)
    changed = [Answer("ac", "length", 3, 2, 0, 6), Answer("ab", "stop", 3, 2, 0, 6)]
    changed += [Answer("ab", "length", 4, 2, 0, 6), Answer("ab", "length", 3, 1, 0, 6)]
    assert len({answer.digest() for answer in (one, *changed)}) == 5
    assert Answer("ab", "length", 3, 2, 0, 9).digest() == one.digest()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 500 No\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
        stream(chunk("a", usage=USAGE), end=False),
        stream(chunk("a")),
        stream("[" * 100_000),
        stream("1"),
        stream({"choices": [1]}),
        stream({"choices": None}),
        stream(chunk("a"), {"choices": [{"text": 7}], "usage": USAGE}),
        stream(chunk("a", usage={**USAGE, "prompt_tokens": -1})),
        stream(chunk("a", usage={**USAGE, "prompt_tokens": 1 << 80})),
        stream(chunk("a", usage={**USAGE, "completion_tokens": True})),
        stream(chunk("a", usage={**USAGE, "gainshare": []})),
        stream('{"choices": [{"text": "\\ud800"}], "usage": ' + json.dumps(USAGE) + "}"),
    ],
    ids=range(19),
)
def test_what_no_node_answers_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        read_answer(raw)
    with pytest.raises(Malformed):
        read_object(raw)


def test_a_request_is_what_the_gateway_sends() -> None:
    """Streamed, with counters on every chunk, for an opaque owner, with the node's token."""
    head, _, body = Ask("hello", 5, "0" * 32).encoded("tiny", "token").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n") and b"Authorization: Bearer token" in head
    assert b"X-Gainshare-Owner: " + b"0" * 32 in head
    sent = json.loads(body)
    assert sent["stream"] and sent["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
    }
    assert sent["temperature"] == 0 and sent["max_tokens"] == 5 and sent["prompt"] == "hello"
    chat = Ask("hello", 5, "0" * 32, is_chat=True).encoded("tiny", "token")
    assert chat.startswith(b"POST /v1/chat/completions") and b'"role": "user"' in chat
    assert b"Owner" not in request_bytes("GET", "/ready", "token")
