"""What stands before a request's body is bounded before any token is looked at: in bytes, fields and time."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.serving.node import request_heads
from model.serving.node.request_heads import MAX_FIELDS, MAX_HEAD_BYTES
from tests.model.serving.node.header_floods import FLOODS, MIB, flood, received
from tests.model.serving.node.node_in_process import ServedNode, serving
from tests.model.serving.node.scripted_backend import ScriptedBackend

pytestmark = pytest.mark.slow

TOKEN = "secret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
GET = b"GET /health HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend("m")


@pytest.fixture
def node(backend: ScriptedBackend) -> Iterator[ServedNode]:
    with serving(lambda _name, _on_death: backend, token=TOKEN, drain_s=1.0) as served:
        yield served


def port_of(node: Any) -> int:
    return int(node.url.rpartition(":")[2])


def connected(node: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(node)), timeout=30)


def error_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head and b"content-type: application/json" in head
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.fixture(scope="module")
def process(start_node: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    return start_node("--model", "tiny", "--token-file", str(token))


@pytest.mark.parametrize("kind", FLOODS)
def test_64_mib_before_authentication_cost_a_node_next_to_nothing(process: Any, kind: str) -> None:
    cost = flood(port_of(process), process.process.pid, *FLOODS[kind])
    assert cost.sent_bytes < 16 * MIB, "the node went on reading"
    assert cost.cpu_s < 0.5 and cost.grown_bytes < 8 * MIB, cost
    if kind in ("trailers", "a chunk's extension without an end"):  # another answer is given or under way
        assert cost.answer[:13] in (b"", b"HTTP/1.1 401 ") and b"HTTP/1.1 431" not in cost.answer
    else:
        assert cost.answer.startswith(b"HTTP/1.1 431 ")
        assert error_of(cost.answer)["code"] == "headers_too_large"
    assert httpx.get(f"{process.url}/v1/models", headers=HEADERS).status_code == 200


def test_a_request_that_is_a_little_too_large_reads_why(node: ServedNode) -> None:
    cookies = {"Cookie": "c" * (MAX_HEAD_BYTES + 1)}
    answer = httpx.get(f"{node.url}/health", headers=cookies)
    assert answer.status_code == 431
    error = answer.json()["error"]
    assert error["code"] == "headers_too_large" and error["type"] == "invalid_request_error"
    assert "65,536 bytes" in error["message"] and "send less in its address, cookies" in error["message"]
    many = {f"X-{i}": "" for i in range(MAX_FIELDS + 1)}
    answer = httpx.get(f"{node.url}/health", headers=many)
    assert answer.status_code == 431 and "more than 128 header fields" in answer.json()["error"]["message"]
    with connected(node) as connection:
        connection.sendall(b"GET /health?%b HTTP/1.1\r\n\r\n" % (b"q" * (MAX_HEAD_BYTES + 1)))
        assert received(connection).startswith(b"HTTP/1.1 431 ")


def test_large_heads_below_the_bounds_and_large_bodies_are_served(node: ServedNode) -> None:
    with httpx.Client(headers=HEADERS) as client:
        for _ in range(3):  # what one request had does not count for the next on its connection
            large = {"X-Large": "v" * (MAX_HEAD_BYTES // 2)} | {f"X-{i}": "v" for i in range(MAX_FIELDS // 2)}
            assert client.get(f"{node.url}/v1/models", headers=large).status_code == 200
            body = json.dumps({"model": "m", "prompt": "p" * 1_000_000})
            assert client.post(f"{node.url}/tokenize", content=body).json()["count"] == 1_000_000
            parts = iter(
                [b'{"model": "m", "prompt": "', *[b"p"] * 100_000, b'"}']
            )  # in chunks, six bytes for one
            assert client.post(f"{node.url}/tokenize", content=parts).json()["count"] == 100_000


def test_headers_that_drip_end_in_408_and_unused_connections_without_a_word(
    node: ServedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_heads, "HEAD_TIMEOUT_S", 1.0)
    with connected(node) as dripping, connected(node) as unused:
        begun = time.monotonic()
        dripping.sendall(GET)
        dripping.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - begun < 20:  # a byte every now and then does not help
            dripping.sendall(b"X")
            try:
                answer = dripping.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ") and error_of(answer)["code"] == "headers_too_slow"
        assert received(unused) == b""
    assert 0.9 < time.monotonic() - begun < 15


@pytest.mark.parametrize("stray", [b"G", b"\r\n"])
def test_a_byte_after_an_answer_does_not_keep_a_connection_for_ever(
    node: ServedNode, monkeypatch: pytest.MonkeyPatch, stray: bytes
) -> None:
    monkeypatch.setattr(request_heads, "HEAD_TIMEOUT_S", 1.0)
    with connected(node) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(stray)
        received(connection)


def test_an_answer_under_way_takes_longer_than_headers_may(
    node: ServedNode, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_heads, "HEAD_TIMEOUT_S", 0.5)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with httpx.stream("POST", f"{node.url}/v1/chat/completions", json=body, headers=HEADERS) as answer:
        lines = answer.iter_lines()
        next(lines)
        time.sleep(1.5)  # longer than that
        backend.gate.set()
        assert "data: [DONE]" in list(lines)


def test_nothing_is_written_into_an_answer_under_way(node: ServedNode) -> None:
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer secret\r\n"
    with connected(node) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        try:
            for _ in range(100):
                connection.sendall(b"X" * (64 << 10))
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert b"HTTP/1.1" not in received(connection)


def test_the_protocol_does_not_import_torch() -> None:
    code = "import sys; import model.serving.node.request_heads; sys.exit('torch' in sys.modules)"
    folder = Path(request_heads.__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=folder).returncode == 0
