"""A real agent process over HTTP, with real sandboxed nodes of the tiny model."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.faults import FAULT_VARIABLE, FOLDER_VARIABLE
from gainshare.capacity.agent.canary_process import CanaryPlace
from gainshare.capacity.agent.devices import Device, berth_of, devices_in
from gainshare.capacity.hosts.nodes import order
from gainshare.capacity.hosts.tokens import new_token, node_token
from gainshare.capacity.models import DeviceClass, Host, Node
from tests.gainshare.capacity.pool_world import MODEL, again, make_class, make_host

ROOT = Path(__file__).resolve().parents[4]
START_S = 240.0  # on a busy machine


def eventually(condition: Callable[[], Any], what: str, within_s: float = START_S) -> Any:
    """The first true value of `condition`; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what}")


@dataclass
class AgentProcess:
    """One host's agent, started again and again in the same folder."""

    url: str
    folder: Path
    token: str
    devices: int = 1
    level: str = ""
    options: Sequence[str] = ()
    canary: Path | None = None
    """A program in place of `python -m benchmarks.canary`."""
    process: subprocess.Popen[bytes] | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def home(self) -> Path:
        return self.folder / "agent"

    def start(self, *faults: str) -> "AgentProcess":
        """Start the agent; each fault point named kills it there, once."""
        markers = self.folder / "faults"
        markers.mkdir(parents=True, exist_ok=True)
        self.faults += faults
        token = self.folder / "host-token"
        token.write_text(f"{self.token}\n")
        token.chmod(0o600)
        own = ["--url", self.url, "--token-file", str(token), "--folder", str(self.home)]
        own += ["--devices", str(self.devices), *(["--level", self.level] if self.level else [])]
        if kernels := os.environ.get("GAINSHARE_KERNELS"):
            own += ["--kernels", kernels]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
            "OMP_NUM_THREADS": "1",
            FOLDER_VARIABLE: str(markers),
            FAULT_VARIABLE: ",".join(self.faults),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._program(), *own, *self.options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def _program(self) -> list[str]:
        if self.canary is None:
            return ["-m", "gainshare.capacity.agent"]
        return [
            "-c",
            "import sys\n"
            "from gainshare.capacity.agent import canary_process\n"
            "from gainshare.capacity.agent.__main__ import main\n"
            f"canary_process.PROGRAM = ({str(self.canary)!r},)\n"
            "sys.exit(main())",
        ]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, within_s: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def has_died_at(self, fault: str) -> bool:
        assert self.process is not None
        return self.process.poll() == -signal.SIGKILL and (self.folder / "faults" / fault).exists()

    def device(self, number: int = 0, berth: int = 0) -> Device:
        return berth_of(self.home, number, berth)

    def close(self) -> None:
        """End the agent and all that it started."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for device in devices_in(self.home, self.devices):
            deadline = time.monotonic() + 30
            while device.lock.exists() and not device.is_free() and time.monotonic() < deadline:
                device.kill()
                time.sleep(0.05)
        if (self.home / "canary").exists():
            CanaryPlace(self.home / "canary").clear()


def make_agent(url: str, folder: Path, *, devices: int = 1, **more: Any) -> tuple[AgentProcess, Host]:
    """A host of the class `cpu-small` at this machine's loopback address, and its agent, not started yet."""
    token = new_token()
    device_class = DeviceClass.objects.filter(name="cpu-small").first() or make_class()
    host = make_host(
        device_class,
        token_prefix=token.prefix,
        token_digest=token.digest,
        allowed_address="127.0.0.1",
        address="",
        n_devices=0,
        agent=None,
        last_seen_at=None,
        heard_since=None,
    )
    return AgentProcess(url, folder, token.text, devices=devices, **more), host


def place(model: str = MODEL, **more: Any) -> Node:
    """Order a node as soon as a device is free."""

    def tried() -> Node | None:
        return order(model=model, device_class=DeviceClass.objects.get(), reason="a test", **more)

    node: Node = eventually(tried, "no device is free", 60)
    return node


def reached(node: Node, state: str, within_s: float = START_S) -> Node:
    def seen() -> Node | None:
        now = again(node)
        return now if now.state == state else None

    found: Node = eventually(seen, f"{node} is not {state}: {again(node).end_reason}", within_s)
    return found


def ask(node: Node, path: str, **body: Any) -> httpx.Response:
    """A request to a node as the gateway sends it."""
    headers = {"Authorization": f"Bearer {node_token(node.pk)}"}
    url = f"{again(node).url}/{path}"
    if body:
        return httpx.post(
            url, json={"model": node.model, **body}, headers=headers, timeout=60, trust_env=False
        )
    return httpx.get(url, headers=headers, timeout=60, trust_env=False)


def sandboxes(device: Device) -> set[str]:
    """The sandboxes that have processes on a device now, by the folder that each has mounted. Two would be two nodes."""
    mark = f"/agent/{str(device.folder).partition('/agent/')[2]}/node/"
    mark = f"{str(device.folder).partition('/agent/')[0].rpartition('/')[2]}{mark}"
    found: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            for line in path.read_text().splitlines():
                _, is_ours, rest = line.split(" ", 5)[3].partition(mark)
                if is_ours and rest.startswith("run-"):
                    found.add(rest.removesuffix("//deleted"))
    return found


def node_pid(device: Device) -> int:
    """The innermost process of a device's node."""
    (name,) = sandboxes(device)
    pids = [pid for pid in device.leftovers() if _runs_node(pid)]
    assert pids, name
    return max(pids)


def _runs_node(pid: int) -> bool:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"model.serving.node" in words and b"/bin/sh" not in words
    return False


class Overseer:
    """Looks at a device all the time: never are there two sandboxes on it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stop = threading.Event()
        self.seen: set[str] = set()
        self.most = 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Overseer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.most <= 1, f"{self.most} nodes at once on one device"

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            now = sandboxes(self._device)
            self.seen |= now
            self.most = max(self.most, len(now))
