"""Requests at given times through this stack's engine, in a process of its own; JSON on standard input and output.

In: {"model": {...}, "core": 1, "slots": 4, "step_tokens": 256, "runs": [[{"at_s", "prompt_tokens", "output_tokens"}]]};
out, on the last line: {"runs": [[{"first_s", "last_s", "tokens"}]]}, seconds since the run's beginning.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from functools import partial
from typing import Any

import torch

from model.config import ModelConfig
from model.sampling import SamplingSettings
from model.serving.api.chat import TINY_TEMPLATE, ChatTemplate
from model.serving.api.tokenizer import ByteTokenizer
from model.serving.executors.choice import default_executor
from model.serving.metering.engine import Engine, EngineLimits, Event, Finish, Generation
from model.serving.node.served import ServedModel
from model.transformer import Transformer

SEED = 20_261_130
WAIT_S = 600.0


def main() -> None:
    request = json.load(sys.stdin)
    os.sched_setaffinity(0, {request["core"]})
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    config = ModelConfig.from_dict(request["model"])
    transformer = Transformer(config).to(torch.bfloat16).requires_grad_(False)
    limits = EngineLimits(
        max_running=request["slots"], step_tokens=request["step_tokens"], max_drafts=0, max_waiting=10_000
    )
    executor = default_executor(transformer, limits)
    served = ServedModel(config.name, transformer, ByteTokenizer(), ChatTemplate(TINY_TEMPLATE), {})
    engine = Engine(served, limits, executor=executor)
    engine.start()
    chance = random.Random(SEED)  # one for all runs: no prompt is found in the cache of an earlier one
    answers = [_Run(engine, chance, config.vocab_size, run).answer() for run in request["runs"]]
    sys.stdout.write("\n" + json.dumps({"runs": answers}) + "\n")


class _Run:
    """One run: each request is submitted at its time, its tokens' times are noted on the engine's thread."""

    def __init__(
        self, engine: Engine, chance: random.Random, vocab_size: int, requests: list[dict[str, Any]]
    ) -> None:
        self.engine, self.random, self.vocab_size, self.requests = engine, chance, vocab_size, requests
        self.times: list[list[float]] = [[] for _ in requests]
        self.left, self.failure = len(requests), ""
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.begun = 0.0

    def answer(self) -> list[dict[str, float]]:
        prompts = [
            tuple(self.random.randrange(self.vocab_size) for _ in range(request["prompt_tokens"]))
            for request in self.requests
        ]
        self.begun = time.monotonic()
        for number, (request, prompt) in enumerate(zip(self.requests, prompts, strict=True)):
            time.sleep(max(0.0, self.begun + request["at_s"] - time.monotonic()))
            generation = Generation(
                prompt=prompt,
                max_tokens=request["output_tokens"],
                settings=SamplingSettings(temperature=0.0),
                ignore_stop_tokens=True,
            )
            self.engine.submit(generation, partial(self._hear, number))
        if not self.ended.wait(WAIT_S):
            raise RuntimeError(f"the engine did not answer within {WAIT_S:.0f} s")
        if self.failure:
            raise RuntimeError(f"the engine ended a request: {self.failure}")
        return [{"first_s": times[0], "last_s": times[-1], "tokens": len(times)} for times in self.times]

    def _hear(self, number: int, event: Event) -> None:
        now = time.monotonic() - self.begun
        with self.lock:
            if event.chosen is not None:
                self.times[number].append(now)
            if event.finish is not None:
                self.left -= 1
                if event.finish is not Finish.LENGTH:
                    self.failure = str(event.finish)
            if self.failure or not self.left:
                self.ended.set()


if __name__ == "__main__":
    main()
