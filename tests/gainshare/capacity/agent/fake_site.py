"""A site for agents, as HTTP: it hands out the orders, trees and canaries that a test sets, and keeps what agents send."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

from benchmarks.canary.order import CanaryOrder
from benchmarks.patch.trees import Tree
from gainshare.capacity.agent.protocol import HEARTBEAT_PATH, KEY_PATH
from tests.http_servers import serving

TOKEN = "gsh_of_the_host"
NODE_TOKEN = "the node's own"
INTERVAL_S = 0.2


@dataclass
class FakeSite:
    """``manifests`` and ``blobs`` are what it serves, as bytes by name. ``status`` answers posts of a kind."""

    url: str = ""
    token: str = TOKEN
    orders: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    canary: CanaryOrder | None = None
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    beats: list[dict[str, Any]] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    known_key: str = ""
    results: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    result_status: int = 200
    takes_result: bool = True
    on_beat: Callable[[int], None] = lambda port: None
    """Gets the other side's port while it waits for the answer to a heartbeat."""

    def order(self, tree: str = "", *, device: int = 0, berth: int = 0, model: str = "tiny") -> UUID:
        node = uuid4()
        self.orders[node] = {
            "node": str(node),
            "device": device,
            "berth": berth,
            "model": model,
            "tree": tree,
            "token": NODE_TOKEN,
            "is_draining": False,
        }
        return node

    def drain(self, node: UUID) -> None:
        self.orders[node]["is_draining"] = True

    def offer(self, tree: Tree, blobs: dict[str, bytes]) -> str:
        """Serve a tree; returns its hash."""
        self.manifests[tree.hash] = json.dumps(tree.to_manifest()).encode()
        self.blobs |= {entry.blob: blobs[entry.blob] for entry in tree.entries}
        return tree.hash

    def report(self, device: int = 0, berth: int = 0) -> dict[str, Any] | None:
        """What the last heartbeat said of a berth; a second one that it leaves out is free."""
        rows = self.beats[-1]["devices"] if self.beats else []
        return next((row for row in rows if (row["device"], row["berth"]) == (device, berth)), None)

    def is_ready(self, node: UUID) -> bool:
        rows = self.beats[-1]["devices"] if self.beats else []
        return any(row["node"] == str(node) and row["state"] == "ready" for row in rows)

    def progress(self) -> str | None:
        canary = self.beats[-1]["canary"] if self.beats else None
        return canary["progress"] if canary else None

    def take_heartbeat(self, beat: dict[str, Any]) -> dict[str, Any]:
        self.beats.append(beat)
        for row in beat["ended"]:
            self.ended[row["node"]] = row["reason"]
            self.orders.pop(UUID(row["node"]), None)
        canary = None if self.canary is None else self.canary.to_json()
        return {"nodes": list(self.orders.values()), "interval_s": INTERVAL_S, "canary": canary}

    def take_key(self, public: str) -> int:
        self.keys.append(public)
        if self.known_key and self.known_key != public:
            return 409
        self.known_key = public
        return 200

    def take_result(self, canary: str, body: dict[str, Any]) -> int:
        self.results.append((canary, body))
        if self.result_status == 200 and self.takes_result:
            self.canary = None
        return self.result_status


@contextmanager
def fake_site(tls: ssl.SSLContext | None = None) -> Iterator[FakeSite]:
    site = FakeSite()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.url = f"https://localhost:{server.server_port}"
    with serving(server):
        yield site


def _handler(site: FakeSite) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            *_, kind, name, _ = self.path.split("/")
            found = (site.manifests if kind == "trees" else site.blobs).get(name)
            if not self._is_refused():
                self._answer(200, found) if found is not None else self._fail(404, "not_found")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self._is_refused():
                return
            if self.path == HEARTBEAT_PATH:
                site.on_beat(self.client_address[1])
                self._answer(200, json.dumps(site.take_heartbeat(body)).encode())
                return
            if self.path == KEY_PATH:
                status = site.take_key(body["public_key"])
            else:
                status = site.take_result(self.path.split("/")[-2], body)
            self._answer(200, b"{}") if status == 200 else self._fail(status, "conflict")

        def _is_refused(self) -> bool:
            is_wrong = self.headers["Authorization"] != f"Bearer {site.token}"
            if is_wrong:
                self._fail(401, "invalid_token")
            return is_wrong

        def _fail(self, status: int, code: str) -> None:
            self._answer(status, json.dumps({"error": {"code": code, "message": "It is so."}}).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
