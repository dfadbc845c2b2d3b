"""Compression: pages, JSON and files for those who accept gzip; secrets do not leak by length, streams are not held."""

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory

from gainshare.web.http.compression import CompressionMiddleware
from tests.gainshare.ledger.ledger_world import make_user

GZIP = {"accept-encoding": "gzip, deflate, br"}
STYLE = "/static/web/gainshare.css"


def body_of(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else bytes(answer.content)


@pytest.mark.parametrize(
    "path", ["/", "/login/", "/api/schema/", "/api/reference/", STYLE, "/static/web/page.js"]
)
def test_text_is_compressed_for_those_who_accept_it(db: None, path: str) -> None:
    plain, small = Client().get(path), Client().get(path, headers=GZIP)
    assert plain.get("Content-Encoding") is None
    assert small["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in plain["Vary"] and "Accept-Encoding" in small["Vary"]
    body = body_of(small)
    assert int(small["Content-Length"]) == len(body) < len(body_of(plain))


def test_rest_is_compressed(db: None) -> None:
    client = Client()
    client.force_login(make_user("maintainer"))
    answer = client.get("/api/v1/treasury/", headers=GZIP)
    assert answer.get("Content-Encoding") is None  # too short to gain anything
    answer = client.get("/api/v1/audit/", headers=GZIP)
    assert answer["Content-Encoding"] == "gzip" and gzip.decompress(answer.content).startswith(b"{")


def test_a_file_decompresses_to_itself_and_is_fetched_again_only_when_it_changed() -> None:
    client = Client()
    for _ in range(2):
        first = client.get(STYLE, headers=GZIP)
        assert gzip.decompress(body_of(first)) == body_of(client.get(STYLE))
    again = client.get(STYLE, headers=GZIP | {"if-modified-since": first["Last-Modified"]})
    assert again.status_code == 304 and again.get("Content-Encoding") is None
    part = client.get(STYLE, headers=GZIP | {"range": "bytes=0-9"})
    assert part.status_code == 206 and part.get("Content-Encoding") is None
    assert len(body_of(part)) == 10
    head = client.head(STYLE, headers=GZIP)
    assert head.status_code == 200 and not body_of(head)


def test_the_length_of_a_page_with_a_form_does_not_tell_its_token(db: None) -> None:
    """BREACH: the same page is compressed to different lengths, by up to 100 random bytes."""
    client = Client()
    lengths = {len(client.get("/login/", headers=GZIP).content) for _ in range(20)}
    assert max(lengths) - min(lengths) >= 20
    tokens = {client.get("/login/").context["csrf_token"] for _ in range(5)}
    assert len({str(token) for token in tokens}) == 5  # nor is it the same text twice


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain", "application/json"])
def test_a_stream_is_passed_on_piece_by_piece(kind: str) -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            made.append(number)
            yield b"data: " + b"x" * 500 + b"\n\n"

    def view(request: HttpRequest) -> Any:
        return StreamingHttpResponse(pieces(), content_type=kind)

    answer: Any = CompressionMiddleware(view)(RequestFactory().get("/", headers=GZIP))
    assert answer.get("Content-Encoding") is None
    read = iter(answer.streaming_content)
    next(read)
    assert made == [0]


@pytest.mark.parametrize(
    "kind", ["application/x-tar", "application/octet-stream", "image/png", "text/event-stream"]
)
def test_what_is_no_text_is_left_alone(kind: str) -> None:
    answer = CompressionMiddleware(lambda request: HttpResponse(b"a" * 5000, content_type=kind))(
        RequestFactory().get("/", headers=GZIP)
    )
    assert answer.get("Content-Encoding") is None
