"""Serving with this stack: requests are submitted to the engine as a node does it, a listener notes their tokens.

Without speculation: peers use no draft tokens either. A prompt may fill a step, as it may with the peers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.drivers.channel import resident_bytes, serve
from benchmarks.peers.drivers.record import Record
from model import native
from model.sampling import SamplingSettings
from model.serving.api.chat import TINY_TEMPLATE, ChatTemplate
from model.serving.api.tokenizer import ByteTokenizer
from model.serving.executors.base import Executor, Part
from model.serving.executors.native import BLOCK_TOKENS, NativeExecutor
from model.serving.executors.packed import Weights
from model.serving.executors.stored import StoredWeights, open_hugging_face
from model.serving.metering.engine import Engine, EngineLimits, Event, Finish, Generation
from model.serving.node.served import ServedModel

WAIT_S = 120.0
STEP_TOKENS = 1024

_engine: Engine | None = None
_clock: TimedExecutor


class TimedExecutor:
    """An executor that counts its steps and the nanoseconds in them."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.block_tokens, self.n_blocks = executor.block_tokens, executor.n_blocks
        self.bytes_per_block = executor.bytes_per_block
        self.reset()

    def reset(self) -> None:
        self.ns = self.steps = 0

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        begun = time.monotonic_ns()
        logits = self._executor.step(parts)
        self.ns += time.monotonic_ns() - begun
        self.steps += 1
        return logits

    def copy_block(self, source: int, target: int) -> None:
        self._executor.copy_block(source, target)


def load(path: str, weights: Weights, max_tokens: int, max_batch: int, kept_in: str) -> dict[str, Any]:
    """The folder's weights in `weights`, on the compiled executor; as in a node they are kept packed in a folder."""
    global _engine, _clock
    torch.set_num_threads(1)
    native.library()  # compiled once for all loads, not in this one
    begun = time.monotonic()
    stored = open_hugging_face(Path(path), None)
    _clock = TimedExecutor(_executor(stored, weights, max_tokens, max_batch, Path(kept_in)))
    name = stored.transformer.config.name
    served = ServedModel(name, stored.transformer, ByteTokenizer(), ChatTemplate(TINY_TEMPLATE), {})
    _engine = Engine(
        served, EngineLimits(max_running=max_batch, step_tokens=STEP_TOKENS, max_drafts=0), executor=_clock
    )
    _engine.start()
    seconds = time.monotonic() - begun
    return {"version": "of this tree", "load_s": seconds, "resident_bytes": resident_bytes()}


def run(name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers the requests; each is submitted when it arrives."""
    assert _engine is not None
    run = _Run(_engine, requests)
    _clock.reset()
    scheduling_ns = _engine.stats.scheduling_ns
    begun = time.monotonic_ns()
    answer = run.answer()
    busy_ns = time.monotonic_ns() - begun
    return {
        **answer,
        "executor_ns": _clock.ns,
        "steps": _clock.steps,
        "busy_ns": busy_ns,
        "scheduling_ns": _engine.stats.scheduling_ns - scheduling_ns,
    }


class _Run:
    """One workload that is being served. What arrives later is submitted from the engine's thread, between two of its steps."""

    def __init__(self, engine: Engine, requests: list[dict[str, Any]]) -> None:
        self.engine, self.record = engine, Record(requests)
        self.failure: str | None = None
        self.lock, self.ended = threading.Lock(), threading.Event()

    def answer(self) -> dict[str, Any]:
        with self.lock:
            self._submit_arrived()
        if not self.ended.wait(WAIT_S):
            raise RuntimeError(f"the engine did not answer within {WAIT_S:.0f} s")
        if self.failure is not None:
            raise RuntimeError(f"the engine ended a request: {self.failure}")
        return self.record.answer()

    def _submit_arrived(self) -> None:
        for number, request in self.record.arrived():
            generation = Generation(
                prompt=tuple(request["prompt"]),
                max_tokens=request["n_new"],
                settings=SamplingSettings(temperature=0.0),
                ignore_stop_tokens=True,
            )
            self.engine.submit(generation, partial(self._hear, number))

    def _hear(self, number: int, event: Event) -> None:
        """Run on the engine's thread; the other one is woken only in the end."""
        now_ns = time.monotonic_ns()
        with self.lock:
            if event.chosen is not None:
                self.record.token(number, event.chosen.token, now_ns)
                self._submit_arrived()
            if event.finish not in (None, Finish.LENGTH):
                self.failure = str(event.finish)
            if self.failure or self.record.is_done:
                self.ended.set()


def _executor(
    stored: StoredWeights, weights: Weights, max_tokens: int, max_batch: int, kept_in: Path
) -> Executor:
    n_blocks = max_batch * -(-max_tokens // BLOCK_TOKENS) + 1
    return NativeExecutor(stored.transformer, n_blocks, weights=weights, stored=stored, kept_in=kept_in)


if __name__ == "__main__":
    serve({"load": load, "run": run})
