"""A real confined node: its starter as a process, its port, its folder, its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.sandbox.accounting.processes import tree
from gainshare.local.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "the node's own token"
START_S = 240.0  # on a busy machine


def eventually(condition: Callable[[], Any], what: str, within_s: float = 120.0) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what}")


@dataclass
class ConfinedNode:
    """One starter and its node, of the tiny model."""

    folder: Path
    level: str
    options: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def said(self) -> str:
        return self.log.read_text()

    def command(self) -> list[str]:
        token = self.folder / "token"
        if not token.exists():
            token.write_text(f"{TOKEN}\n")
            token.chmod(0o600)
        own = ["--level", self.level, "--folder", str(self.folder / "node"), "--port", str(self.port)]
        own += ["--token-file", str(token), *self.options]
        if kernels := os.environ.get("GAINSHARE_KERNELS"):
            own += ["--kernels", kernels]
        return [sys.executable, "-m", "benchmarks.confined_node", *own, "--", "--model", "tiny"]

    def start(self) -> ConfinedNode:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
            "SECRET_OF_THE_STARTER": "canary",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(self.is_ready, f"{self.level}: {self.said}", START_S)
        return self

    def is_ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.said
        try:
            return self.get("health", token="").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, *, token: str = TOKEN) -> httpx.Response:
        return httpx.get(self.url(path), headers=bearer(token), timeout=120, trust_env=False)

    def post(self, path: str, *, token: str = TOKEN, **body: Any) -> httpx.Response:
        return httpx.post(
            self.url(path),
            headers=bearer(token),
            json={"model": "tiny", **body},
            timeout=120,
            trust_env=False,
        )

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def pids(self) -> list[int]:
        """The starter's descendants: sandbox and node."""
        assert self.process is not None
        return [stat.pid for stat in tree(self.process.pid) if stat.pid != self.process.pid]

    def node_pid(self) -> int:
        """The innermost process, which runs the node."""
        found = [pid for pid in self.pids() if is_node(pid)]
        return max(found)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(120)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def is_node(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"model.serving.node" in words and b"/bin/sh" not in words
