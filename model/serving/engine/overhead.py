"""Measure what a step costs in addition to its computation.

Answers decode on an executor that computes nothing, so all time is the engine's: scheduling, and everything
else, namely choosing tokens, counters, text and events. Prints medians over steps on one thread. It is independent of
any model's speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.sampling import SamplingSettings
from model.serving.engine.stats import StepReport
from model.serving.executors.base import Part
from model.serving.metering.core import EngineCore
from model.serving.metering.generation import EngineLimits, Event, Generation
from model.serving.metering.job import Job
from model.serving.node.served import tiny

PROMPT_TOKENS = 64


class NoExecutor:
    """An executor that computes nothing: it returns the same logits [N, V] for each step."""

    block_tokens = 16
    bytes_per_block = 1024

    def __init__(self, n_blocks: int, n_rows: int, vocab_size: int) -> None:
        self.n_blocks = n_blocks
        self._logits_NV = np.random.default_rng(0).standard_normal((n_rows, vocab_size), np.float32)

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        return self._logits_NV[: sum(part.n_logits for part in parts)]

    def copy_block(self, source: int, target: int) -> None:
        del source, target


@dataclass(frozen=True)
class Overhead:
    """Medians, in microseconds per step."""

    n_running: int
    n_steps: int
    scheduling_us: float
    whole_us: float


def measured(n_running: int, n_steps: int) -> Overhead:
    """Measure `n_steps` steps in which `n_running` answers decode. Raises ValueError for numbers below 1."""
    if n_running < 1 or n_steps < 1:
        raise ValueError("n_running and n_steps must be at least 1")
    served = tiny()
    limits = EngineLimits(max_running=n_running, step_tokens=(PROMPT_TOKENS + 1) * n_running)
    n_blocks = n_running * (-(-(PROMPT_TOKENS + n_steps + 2) // NoExecutor.block_tokens) + 1)
    reports: list[StepReport] = []
    executor = NoExecutor(n_blocks, n_running, served.transformer.config.vocab_size)
    core = EngineCore(served, limits, executor, reports.append)
    events: list[Event] = []
    for i in range(n_running):
        prompt = tuple((i + j) % 256 for j in range(PROMPT_TOKENS))
        greedy = SamplingSettings(temperature=0)
        generation = Generation(prompt, n_steps + 2, greedy, ignore_stop_tokens=True)
        core.add(Job(served, generation, events.append, time.monotonic_ns()))
    core.step()  # reads all prompts
    core.step()
    whole_ns: list[int] = []
    reports.clear()
    for _ in range(n_steps):
        begun_ns = time.perf_counter_ns()
        core.step()
        whole_ns.append(time.perf_counter_ns() - begun_ns)
    assert all(report.n_sequences == n_running for report in reports)
    scheduling_ns = statistics.median(report.scheduling_ns for report in reports)
    return Overhead(n_running, n_steps, scheduling_ns / 1e3, statistics.median(whole_ns) / 1e3)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.serving.engine.overhead", description=__doc__)
    parser.add_argument("--running", type=int, default=16, help="answers that decode at once (default: 16)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        found = measured(options.running, options.steps)
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        return
    sys.stdout.write(
        f"{found.n_running} answers, {found.n_steps} steps, median per step: "
        f"scheduling {found.scheduling_us:.0f} us, everything but computing {found.whole_us:.0f} us\n"
    )


if __name__ == "__main__":
    main()
