"""Requests go out once and wait for nothing; a hostile or broken server gets no token and no memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pytest_django import Settings

from bounty.github.app import transport
from bounty.github.app.client import Client, client_for
from bounty.github.app.facts import GitHubBusy, GitHubError
from bounty.models import GitHubRepository, Installation
from tests.bounty.github.app.conftest import Connected
from tests.http_servers import serving

TOKEN = "ghs_a_token_that_stays_here"


@dataclass
class Odd:
    """A server that answers as it is told: status, headers and body by path."""

    url: str = ""
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)  # paths whose answer was read to its end

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("/access_tokens"):
            return 201, {}, f'{{"token":"{TOKEN}","expires_at":"2100-01-01T00:00:00Z"}}'.encode()
        return self.answers.get(path.partition("?")[0], (404, {}, b'{"message":"Not Found"}'))


@contextmanager
def odd_server() -> Iterator[Odd]:
    made = Odd()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, dict(self.headers)))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = made.answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # the client has hung up
                self.wfile.write(body)
                made.taken.append(self.path)

        do_POST = do_GET

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        yield made


@pytest.fixture
def odd(db: None, standin: object, settings: Settings) -> Iterator[Odd]:
    with odd_server() as made:
        settings.GITHUB_API_URL = made.url
        installation = Installation.objects.create(installation_id=7, account="octo")
        GitHubRepository.objects.create(github_id=9, full_name="octo/model", installation=installation)
        yield made


@pytest.fixture
def nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sleep that somebody would notice fails the test, in this thread."""
    sleep, here = time.sleep, threading.current_thread()

    def refused(seconds: float) -> None:
        assert seconds < 0.1 or threading.current_thread() is not here, (
            f"a worker would sleep for {seconds} s"
        )
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", refused)


def _client() -> Client:
    return client_for(Installation.objects.get(pk=7))


def _fails(match: str) -> None:
    with pytest.raises(GitHubError, match=match):
        _client().pull_request("octo/model", 1)


PULL = "/repositories/9/pulls/1"


def test_a_token_is_not_sent_to_another_server(odd: Odd) -> None:
    with odd_server() as other:
        odd.answers[PULL] = (301, {"Location": f"{other.url}{PULL}"}, b"")
        _fails("redirects to another server")
        assert other.asked == []
    assert f"token {TOKEN}" in [headers.get("Authorization") for _, headers in odd.asked]


@pytest.mark.parametrize(
    "location", [PULL, f"{PULL}?x=1", "//127.0.0.1:1/x", "file:///etc/passwd", "gopher://x/"]
)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_end(odd: Odd, location: str, status: int) -> None:
    odd.answers[PULL] = (status, {"Location": location}, b"")
    _fails("redirects")
    assert sum(path.startswith(PULL) for path, _ in odd.asked) <= 4


def test_a_large_answer_is_not_read_to_its_end(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LARGEST_ANSWER_BYTES", 100_000)
    odd.answers[PULL] = (
        200,
        {},
        b'{"x":"' + b"y" * 64 * 1024 * 1024 + b'"}',
    )  # more than a connection buffers
    _fails("too large")
    assert [path for path, _ in odd.asked].count(PULL) == 1 and PULL not in odd.taken


@pytest.mark.usefixtures("nobody_sleeps")
@pytest.mark.parametrize(
    ("status", "headers", "body", "match"),
    [
        (202, {}, b"{}", "still computing"),
        (500, {"Retry-After": "9"}, b"{}", "status 500"),
        (502, {}, b"<html>", "status 502"),
        (503, {"Retry-After": "9"}, b"", "status 503"),
        (200, {}, b"<html>", "not JSON"),
        (403, {}, b'{"message":"no \\u001b[31m\\u202e way"}', r"may not do this .*: no \[31m way"),
    ],
)
def test_no_answer_is_waited_for_or_asked_twice(
    odd: Odd, status: int, headers: dict[str, str], body: bytes, match: str
) -> None:
    odd.answers[PULL] = (status, headers, body)
    _fails(match)
    assert sum(path == PULL for path, _ in odd.asked) == 1


@pytest.mark.usefixtures("nobody_sleeps")
@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (429, {"Retry-After": "30"}, b"{}"),
        (429, {}, b""),
        (403, {"Retry-After": "999999999999999999999"}, b"{}"),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999999"}, b"{}"),
        (403, {"X-RateLimit-Remaining": "0"}, b"{}"),
        (403, {}, b'{"message":"You have exceeded a secondary rate limit."}'),
    ],
)
def test_every_limit_is_a_pause_of_a_bounded_length(
    odd: Odd, status: int, headers: dict[str, str], body: bytes
) -> None:
    odd.answers[PULL] = (status, headers, body)
    before = time.time()
    with pytest.raises(GitHubBusy) as busy:
        _client().pull_request("octo/model", 1)
    assert before < busy.value.until.timestamp() <= time.time() + 2 * 3600
    assert Installation.objects.get(pk=7).quiet_until == busy.value.until


def test_an_earlier_longer_pause_stays(odd: Odd) -> None:
    odd.answers[PULL] = (429, {"Retry-After": "3000"}, b"")
    with pytest.raises(GitHubBusy):
        _client().pull_request("octo/model", 1)
    until = Installation.objects.get(pk=7).quiet_until
    with pytest.raises(GitHubBusy) as busy:
        _client().pull_request("octo/model", 1)
    assert busy.value.until == until
    assert sum(path == PULL for path, _ in odd.asked) == 1


@pytest.mark.usefixtures("nobody_sleeps")
def test_many_requests_follow_each_other_at_once(connected: Connected) -> None:
    connected.pull()
    client = connected.client
    for number in range(5):
        client.create_comment("octo/model", 1, f"text {number}")
    assert len(connected.standin.asked("POST", "access_tokens")) == 1  # one token serves them all


def test_a_connection_that_breaks_is_an_error_of_one_line(odd: Odd) -> None:
    odd.answers[PULL] = (200, {"Content-Length": "1000"}, b'{"cut":')
    with ExitStack() as stack:
        raised = stack.enter_context(pytest.raises(GitHubError))
        _client().pull_request("octo/model", 1)
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    "body", [b'{"number": 1}', b"[]", b"null", b"", b'"text"', b'{"base": {"repo": []}}']
)
def test_an_answer_without_what_it_must_have_is_an_error(odd: Odd, body: bytes) -> None:
    odd.answers[PULL] = (200, {}, body)
    _fails("not as it must be")
    odd.answers["/repositories/9/pulls"] = (200, {}, b'[{"number": 1}]')
    with pytest.raises(GitHubError, match="not as it must be"):
        _client().open_pull_requests("octo/model", etag="")
