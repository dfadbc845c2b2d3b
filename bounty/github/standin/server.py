"""The HTTP server: REST below /api/v3, OAuth below /login/oauth, git at OWNER/NAME."""

from __future__ import annotations

import html
import json
import re
import socket
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from bounty.github.standin import git_http, oauth, registration
from bounty.github.standin.api import Asked, answer_api
from bounty.github.standin.hub import Hub
from bounty.github.standin.records import Recorded

API = "/api/v3"
NEW_APP = re.compile(r"^/(organizations/[^/]+/)?settings/apps/new$")
LARGEST_BODY = 256 * 1024 * 1024
KEPT_HEADERS = ("Accept", "Content-Type", "If-None-Match", "User-Agent", "X-GitHub-Api-Version")


class Handler(BaseHTTPRequestHandler):
    """Answers one connection. The server's class has the ``hub``."""

    protocol_version = "HTTP/1.1"
    server_version = "github.com"
    sys_version = ""
    timeout = 60
    hub: Hub

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def log_message(self, *_args: object) -> None:
        """Say nothing: every request is recorded."""

    def _handle(self) -> None:
        raw, _, query = self.path.partition("?")
        path = unquote(raw)
        body = self._body()
        if path == API or path.startswith(f"{API}/"):
            self._rest(path.removeprefix(API) or "/", query, body)
        elif git_http.is_git(path):
            self._git(path, query, body)
        elif path.startswith("/login/oauth/"):
            self._oauth(path, query, body)
        elif self.command == "POST" and NEW_APP.match(path):
            self._new_app(dict(parse_qsl(body.decode())))
        else:
            self._page(path)

    def _rest(self, path: str, query: str, body: bytes) -> None:
        named = dict(parse_qsl(query, keep_blank_values=True))
        if broken := self.hub.state.broken_status:
            self._record(path, named, _loaded(body), broken, None)
            self._send_page(broken, "<h1>This page is taking too long to load.</h1>")
            return
        asked = Asked(self.command, path, named, body, dict(self.headers))
        with self.hub.state.lock:
            answer = answer_api(self.hub, asked)
            self._record(path, named, _loaded(body), answer.status, answer.data)
        content = b"" if answer.data is None else json.dumps(answer.data, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "X-GitHub-Media-Type": "github.v3; format=json",
        }
        headers |= answer.headers
        self._send(answer.status, headers, [content])

    def _git(self, path: str, query: str, body: bytes) -> None:
        answer = git_http.answer(self.hub, self.command, path, query, self.headers, body)  # type: ignore[arg-type]
        self._record(path, dict(parse_qsl(query)), None, answer.status, None)
        self._send(answer.status, answer.headers, answer.body, is_chunked=True)

    def _oauth(self, path: str, query: str, body: bytes) -> None:
        named = dict(parse_qsl(query))
        if path == "/login/oauth/authorize" and self.command == "GET":
            with self.hub.state.lock:
                page = oauth.authorize(self.hub, named)
            self._record(path, named, None, page.status, None)
            self._send_page(page.status, page.text, page.location)
        elif path == "/login/oauth/access_token" and self.command == "POST":
            is_json = "json" in (self.headers.get("Content-Type") or "")
            given = (_loaded(body) or {}) if is_json else dict(parse_qsl(body.decode()))
            with self.hub.state.lock:
                answer = oauth.exchange(self.hub, {**named, **given})
            self._record(path, {}, None, 200, None)
            wants_json = "json" in (self.headers.get("Accept") or "")
            content = json.dumps(answer) if wants_json else urlencode(answer)
            kind = "application/json" if wants_json else "application/x-www-form-urlencoded"
            self._send(200, {"Content-Type": f"{kind}; charset=utf-8"}, [content.encode()])
        else:
            self._send_page(404, "Not Found")

    def _new_app(self, given: dict[str, str]) -> None:
        with self.hub.state.lock:
            page = registration.submit(self.hub, given.get("manifest", ""), given.get("state", ""))
        self._send_page(page.status, page.text, page.location)

    def _page(self, path: str) -> None:
        with self.hub.state.lock:
            text = _pull_page(self.hub, path)
        self._send_page(404 if text is None else 200, text or "Not Found")

    def _send_page(self, status: int, text: str, location: str = "") -> None:
        headers = {"Content-Type": "text/html; charset=utf-8"} | ({"Location": location} if location else {})
        self._send(status, headers, [text.encode()])

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(min(size, LARGEST_BODY))

    def _send(
        self, status: int, headers: dict[str, str], pieces: Iterable[bytes], *, is_chunked: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        if not is_chunked:
            content = b"".join(pieces)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _record(self, path: str, query: dict[str, str], body: Any, status: int, answer: Any) -> None:
        kept = {name: value for name in KEPT_HEADERS if (value := self.headers.get(name))}
        with self.hub.state.lock:
            state = self.hub.state
            state.requests.append(
                Recorded(self.command, path, query, kept, body, status, answer, state.now())
            )


def _loaded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


def _pull_page(hub: Hub, path: str) -> str | None:
    """A plain page of a pull request, to look at."""
    parts = path.strip("/").split("/")
    if len(parts) != 4 or parts[2] != "pull" or not parts[3].isdigit():
        return None
    repository = hub.state.repository(f"{parts[0]}/{parts[1]}")
    pull = repository.pulls.get(int(parts[3])) if repository else None
    if repository is None or pull is None:
        return None
    rows = [(pull.author.login, pull.body), *((row.author.login, row.body) for row in pull.comments)]
    talk = "".join(f"<h3>{html.escape(who)}</h3><pre>{html.escape(text)}</pre>" for who, text in rows)
    checks = "".join(
        f"<li>{html.escape(run.name)}: {html.escape(run.conclusion or run.status)}</li>"
        for run in repository.checks
        if run.head_sha == pull.head_sha
    )
    title = html.escape(f"{pull.title} #{pull.number}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
        f"<p>{html.escape(pull.state)}</p><ul>{checks}</ul>{talk}</html>"
    )


class Server:
    """A server on a loopback port, answering in threads of its own until `close`."""

    def __init__(self, port: int = 0) -> None:
        self._handler = type("StandInHandler", (Handler,), {})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler)
        self._server.daemon_threads = True
        self._thread: threading.Thread | None = None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def start(self, hub: Hub) -> None:
        """Answer requests from now on."""
        self._handler.hub = hub  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port; a server that is closed already stays so."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the loop, which looks only now and then
            self._server.shutdown()
            thread.join(10)
        self._server.server_close()
