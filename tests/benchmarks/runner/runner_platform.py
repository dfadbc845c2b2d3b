"""A platform of HTTP for runner tests: the runner API with its rules, in memory. The real one is tested with bounty."""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.signing import generate_key, save_key
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry, shipped_tree
from benchmarks.runner.client import RunnerClient
from tests.http_servers import serving

TOKEN = "gsr_test"
ROOT = Path(__file__).resolve().parents[3]


class Platform:
    """The runner API in memory: one run at a time, leases, attempts, at most one verdict. Answers while `server` is served."""

    def __init__(self, store: BlobStore, base: Tree, candidate: Tree, *, kind: str = "gate") -> None:
        self.store, self.trees = store, {base.hash: base, candidate.hash: candidate}
        self.run: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "kind": kind,
            "suite": "moe_forward",
            "preset": "tiny",
            "base_tree": base.hash,
            "candidate_tree": candidate.hash,
        }
        self.lease_s = 3
        self.attempt = 0
        self.lease = ""
        self.lease_expires = 0.0
        self.nonce = ""
        self.state = "queued"
        self.commitments: list[tuple[int, str]] = []
        self.beats: list[dict[str, Any]] = []
        self.log = ""
        self.pairs: list[dict[str, Any]] = []  # signed records, from which the next attempt continues
        self.evidence: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.waits = 0  # how often the runner said that it waits for its device
        self.cancel = False
        self.is_lent = False
        self.give_back_s: float | None = None  # of the next heartbeats' answers
        self.returns = 0  # how often the runner gave its device back
        self.broken = 0  # how many of the next requests are answered with 503
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def requeue_if_lost(self) -> bool:
        """What beat does: a run whose lease ran out is queued again. Whether it was."""
        with self.lock:
            if self.state == "leased" and time.monotonic() > self.lease_expires:
                self.state = "queued"
                return True
            return False

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            if self.broken > 0:
                self.broken -= 1
                return 503, {"error": {"code": "unavailable", "message": "away"}}
            if token != f"Bearer {TOKEN}":
                return 401, {"error": {"code": "invalid_token", "message": "unknown token"}}
            if path == "/api/v1/runner/lease/":
                return self._lease()
            if path == "/api/v1/runner/waiting/":
                self.waits += 1
                return 204, {}
            if path == "/api/v1/runner/give-back/":
                self.returns += 1
                self.state = "queued" if self.state == "leased" else self.state
                return 204, {}
            if found := re.fullmatch(r"/api/v1/runner/blobs/([0-9a-f]{64})/", path):
                return 200, self.store.get(found[1])
            call = path.removeprefix(f"/api/v1/runner/runs/{self.run['id']}/").rstrip("/")
            if self.state != "leased" or body.get("lease") != self.lease:
                if call == "evidence" and self.evidence and self.evidence[-1] == body["evidence"]:
                    return 200, {"kind": "repeated"}
                return 409, {"error": {"code": "lease_lost", "message": "another runner has it"}}
            answer: dict[str, Any] = getattr(self, f"_{call}")(body)
            return 200, answer

    def _lease(self) -> tuple[int, Any]:
        if self.state != "queued":
            return 409, {"error": {"code": "not_leasable", "message": "nothing waits"}}
        self.state, self.attempt, self.lease = "leased", self.attempt + 1, str(uuid.uuid4())
        self.nonce, self.log = uuid.uuid4().hex, ""
        self.lease_expires = time.monotonic() + self.lease_s
        return 200, {
            "run": {**self.run, "nonce": self.nonce, "attempt": self.attempt},
            "lease": self.lease,
            "lease_s": self.lease_s,
            "is_lent": self.is_lent,
            "continues": list(self.pairs),
            "trees": {name: tree.to_manifest() for name, tree in self.trees.items()},
        }

    def _heartbeat(self, body: dict[str, Any]) -> dict[str, Any]:
        self.beats.append(body)
        self.lease_expires = time.monotonic() + self.lease_s
        return {
            "cancel": self.cancel,
            "lease_expires_at": "2026-01-01T00:00:00Z",
            "give_back_s": self.give_back_s,
        }

    def _commitment(self, body: dict[str, Any]) -> dict[str, Any]:
        self.commitments.append((self.attempt, body["commitment"]))
        return {}

    def _pairs(self, body: dict[str, Any]) -> dict[str, Any]:
        self.pairs.append(body["pair"])
        return {}

    def _log(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["offset"] <= len(self.log), "a piece is missing"
        self.log += body["text"][len(self.log) - body["offset"] :]
        return {"next_offset": len(self.log)}

    def _evidence(self, body: dict[str, Any]) -> dict[str, Any]:
        self.evidence.append(body["evidence"])
        self.state = "finished"
        return {"kind": body["evidence"]["document"]["verdict"]["kind"]}

    def _failed(self, body: dict[str, Any]) -> dict[str, Any]:
        self.failures.append(body)
        self.state = "queued"
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size) or b"{}")
                token = self.headers.get("Authorization", "")
                status, answer = platform.answer(self.command, self.path, token, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                data = b"" if status == 204 else data
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def broken_candidate(store: BlobStore) -> tuple[Tree, Tree]:
    """The shipped stack's Python and a patch of it that cannot be imported: nothing to compile, judged within one pair."""
    shipped = Tree(tuple(e for e in shipped_tree(store).entries if "/csrc/" not in f"/{e.path}"))
    text = store.put(b"raise RuntimeError('at import')\n")
    entries = (
        TreeEntry(e.path, e.mode, text if e.path.endswith("layers/moe/layer.py") else e.blob)
        for e in shipped.entries
    )
    return shipped, Tree(tuple(entries))


@pytest.fixture
def platform(open_folder: Path) -> Iterator[Platform]:
    store = BlobStore(open_folder / "platform-blobs")
    made = Platform(store, *broken_candidate(store))
    with serving(made.server):
        yield made


@pytest.fixture
def client(platform: Platform) -> Iterator[RunnerClient]:
    connection = RunnerClient(platform.url, TOKEN, timeout_s=5)
    yield connection
    connection.close()


def wait_until(holds: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def settings_env(folder: Path, **changes: str) -> dict[str, str]:
    (folder / "token").write_text(TOKEN + "\n")
    if not (folder / "key.pem").exists():
        save_key(generate_key(), folder / "key.pem")
    return {
        "GAINSHARE_URL": "http://127.0.0.1:1/",
        "GAINSHARE_RUNNER_BROKER_URL": "redis://:secret-word@127.0.0.1/0",
        "GAINSHARE_RUNNER_TOKEN_FILE": str(folder / "token"),
        "GAINSHARE_RUNNER_KEY_FILE": str(folder / "key.pem"),
        "GAINSHARE_RUNNER_HOME": str(folder / "home"),
        **changes,
    }
