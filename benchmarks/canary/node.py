"""One node of a canary: a fresh process in a sandbox of its own, on one core at a time, frozen whenever it is not asked.

Turns whatever its code does wrong into one NodeFailed, whose kind is an event's. Knows neither the other node nor
statistics nor verdicts.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.canary.answers import (
    Answer,
    Ask,
    Malformed,
    read_answer,
    read_body,
    read_object,
    request_bytes,
)
from benchmarks.canary.exchange import Exchanged, NotAnswered, exchange
from benchmarks.confined_node.folders import SOCKET, NodeFolders, make_folders
from benchmarks.confined_node.start import NodeOrder, start
from benchmarks.pairs.cores import Cores, pin
from benchmarks.sandbox import Sample, SandboxLevel, Unsteerable
from benchmarks.sandbox.devices import CPU
from benchmarks.sandbox.page_cache import hold_python_in_page_cache
from benchmarks.sandbox.readable import readable

POLL_S = 0.005
MOST_LOG_BYTES = 4 << 20
MOST_STATE_BYTES = 1 << 20  # of what a node answers about itself
MOST_DETAIL_CHARACTERS = 1_000
ENDING_S = 5.0


class NodeFailed(Exception):
    """A node did not do its part. `detail` can be stored and printed."""

    def __init__(self, kind: str, side: str, stage: str, detail: str) -> None:
        detail = readable(detail, most=MOST_DETAIL_CHARACTERS)  # the words may be the node's
        super().__init__(f"{side} at {stage}: {detail}")
        self.kind, self.side, self.stage, self.detail = kind, side, stage, detail


@dataclass(frozen=True)
class Patience:
    """How long a node may take to start, and for one call."""

    start_s: float = 300.0
    call_s: float = 120.0


@dataclass(frozen=True)
class NodeSetup:
    """What all nodes of a canary share. `arguments` are a node's own options, the model's among them."""

    model: str
    models: Path | None
    level: SandboxLevel
    device: str
    memory_bytes: int
    cores: Cores
    arguments: Sequence[str] = ()
    patience: Patience = Patience()

    def node_arguments(self) -> list[str]:
        device = [] if self.device == CPU else ["--device", self.device]
        return ["--model", self.model, "--threads", "1", *device, *self.arguments]


class CanaryNode:
    """`side` is what the document calls it. `folder` keeps its state from one process to the next. Use `close` in a finally.

    It begins on `core`, one of the setup's.
    """

    def __init__(self, side: str, code: Path, folder: Path, seat: int, setup: NodeSetup, core: int) -> None:
        self.side, self._setup = side, setup
        self._token = secrets.token_hex(16)
        self.folders: NodeFolders = make_folders(
            folder, code=code, kernels=None, token=self._token, seat=seat
        )
        self.printed = bytearray()
        self._frozen_at_ns = 0
        self._core = core
        hold_python_in_page_cache()
        self._started_ns = time.perf_counter_ns()
        self._sample: Sample = start(
            NodeOrder(
                self.folders,
                setup.level,
                setup.node_arguments(),
                setup.memory_bytes,
                models=setup.models,
                device=setup.device,
                seat=seat,
                env={
                    name: os.environ[name]
                    for name in ("CUDA_VISIBLE_DEVICES", "GAINSHARE_MODEL_FP32")
                    if name in os.environ
                },
                cores=setup.cores.all,
                first_core=core,
            )
        )
        self._reading = threading.Thread(target=self._read_log, name="canary-log", daemon=True)
        self._reading.start()

    # -- life -----------------------------------------------------------------------------------------

    def first_answer(self, ask: Ask) -> tuple[Answer, int]:
        """The answer to its first request, and the nanoseconds since it was spawned; frozen afterwards. Raises NodeFailed."""
        deadline = time.monotonic() + self._setup.patience.start_s
        while not self._is_ready():
            if self._sample.returncode is not None:
                raise self._ended("start")
            if time.monotonic() > deadline:
                raise self._failed(
                    "timeout", "start", f"not ready within {self._setup.patience.start_s:.0f} s"
                )
            time.sleep(POLL_S)
        answers, _ = self._call([ask], "start")
        elapsed_ns = time.perf_counter_ns() - self._started_ns
        self._freeze("start")
        return answers[0], elapsed_ns

    def _is_ready(self) -> bool:
        try:
            done = self._exchange([request_bytes("GET", "/ready", self._token)], MOST_STATE_BYTES)
            return read_body(done.replies[0].raw)[0] == 200
        except NotAnswered as error:
            if error.kind == "too_large":
                raise self._failed(error.kind, "start", error.detail) from None
            return False  # it does not listen yet
        except Malformed:
            return False  # a connection that ended without an answer

    def describe(self) -> dict[str, Any]:
        """What it says of its model; for lengths of requests only. Raises NodeFailed."""
        self._sample.thaw()
        try:
            request = request_bytes("GET", f"/v1/models/{self._setup.model}", self._token)
            return read_object(self._exchange([request], MOST_STATE_BYTES).replies[0].raw)
        except NotAnswered as error:
            raise self._failed(error.kind, "start", error.detail) from None
        except Malformed as error:
            raise self._failed("malformed", "start", str(error)) from None
        finally:
            self._freeze("start")

    def call(self, asks: Sequence[Ask], stage: str) -> tuple[list[Answer], Exchanged]:
        """All answers and their times; frozen again afterwards. It wakes up to all requests at once. Raises NodeFailed."""
        answers, done = self._call(asks, stage, after_sending=self._sample.thaw)
        self._freeze(stage)
        return answers, done

    def _call(
        self, asks: Sequence[Ask], stage: str, after_sending: Callable[[], None] = lambda: None
    ) -> tuple[list[Answer], Exchanged]:
        requests = [ask.encoded(self._setup.model, self._token) for ask in asks]
        try:
            done = self._exchange(requests, max(ask.most_bytes() for ask in asks), after_sending)
            answers = [read_answer(reply.raw) for reply in done.replies]
        except NotAnswered as error:
            if error.kind == "crash" and self._sample.returncode is not None:
                raise self._ended(stage) from None
            raise self._failed(error.kind, stage, error.detail) from None
        except Malformed as error:
            with suppress(subprocess.TimeoutExpired):
                self._sample.wait(0.5)
            if self._sample.returncode is not None:
                raise self._ended(stage) from None
            raise self._failed("malformed", stage, f"an answer that no node gives: {error}") from None
        return answers, done

    def _exchange(
        self, requests: Sequence[bytes], most_bytes: int, after_sending: Callable[[], None] = lambda: None
    ) -> Exchanged:
        return exchange(
            self.folders.run,
            SOCKET,
            requests,
            limit_s=self._setup.patience.call_s,
            most_bytes=most_bytes,
            after_sending=after_sending,
        )

    # -- freezing ---------------------------------------------------------------------------------------

    def move(self, core: int) -> None:
        """Hold it on another core of the setup's. Call it while it is frozen."""
        if core != self._core:
            pin(self.pids(), core)
            self._core = core

    def _freeze(self, stage: str) -> None:
        try:
            self._sample.freeze()
        except Unsteerable as error:
            raise self._failed("unsteerable", stage, str(error)) from None
        self._frozen_at_ns = self._sample.cpu_ns()

    def take_cpu_while_frozen_ns(self) -> int:
        """CPU time used since it was frozen or since this was asked last. Call it while it is frozen."""
        before, self._frozen_at_ns = self._frozen_at_ns, self._sample.cpu_ns()
        return max(0, self._frozen_at_ns - before)

    # -- what it used, and its end ----------------------------------------------------------------------

    def peak_memory_bytes(self) -> int:
        return self._sample.peak_memory_bytes()

    def pids(self) -> list[int]:
        return self._sample.pids()

    def kill(self) -> None:
        """End it from another thread than the one that waits for its answer, which then fails. `close` is still due."""
        with suppress(Unsteerable):
            self._sample.kill()

    def close(self) -> None:
        """Kill what is left; its folder stays, and what it printed is whole. Raises NodeFailed."""
        try:
            self._sample.kill()
            self._reading.join(ENDING_S)  # before its pipe is closed
            self._sample.close()
        except Unsteerable as error:
            raise self._failed("unsteerable", "end", str(error)) from None

    def check_log(self) -> None:
        """Raises NodeFailed for a node that prints without end: what is not kept cannot be searched."""
        if len(self.printed) > MOST_LOG_BYTES:
            raise self._failed("too_large", "log", f"it printed more than {MOST_LOG_BYTES >> 20} MiB")

    def _read_log(self) -> None:
        with suppress(OSError, ValueError):  # closed
            while chunk := os.read(self._sample.stdout.fileno(), 65_536):
                if len(self.printed) <= MOST_LOG_BYTES:
                    self.printed += chunk

    def _failed(self, kind: str, stage: str, detail: str) -> NodeFailed:
        return NodeFailed(kind, self.side, stage, detail)

    def _ended(self, stage: str) -> NodeFailed:
        with suppress(subprocess.TimeoutExpired):
            self._sample.wait(ENDING_S)
        if (limit := self._sample.limit_hit()) is not None:
            return self._failed("resource_limit", stage, f"the limit of {limit} was reached")
        lines = bytes(self.printed[-4_096:]).decode(errors="replace").strip().splitlines()
        words = f"; its last output: {lines[-1][:300]}" if lines else ""
        return self._failed("crash", stage, f"it ended with status {self._sample.returncode}{words}")
