"""The sandboxed half of suite `mixed_load`: the stack's scheduler and executor, one step a message.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted.
"""

from __future__ import annotations

import time
from typing import Any

import decoder_sample  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import tensors  # type: ignore[import-not-found]
import torch


def prepare(threads: int, device: str) -> None:
    tensors.start(threads, device)


def build(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """The engine of the mounted tree with the operator's limits, and no requests yet."""
    from model.transformer import Transformer

    transformer = Transformer(decoder_sample.model_config(config))
    tensors.load_state(transformer, weights, config["device"])
    return Serving(decoder_sample.Stepped(transformer, config["step_tokens"], config["max_running"]))


def call(state: Serving, inputs: dict[str, Any]) -> dict[str, Any]:
    """arrived [A, 4], prompts [T], continued [C, 2], ended [E] -> produced [R], logits [R, V] of one step."""
    given = {name: tensors.to_torch(raw) for name, raw in inputs.items()}
    state.end(given["ended"].tolist())
    state.go_on(given["continued"].tolist())
    state.arrive(given["arrived"].tolist(), given["prompts"])
    return {name: tensors.to_raw(value) for name, value in state.step().items()}


class Serving:
    """Requests by their places."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._sequences: dict[int, Any] = {}
        self._vocab = engine.vocab_size

    def arrive(self, rows: list[list[int]], prompts: torch.Tensor) -> None:
        from model.serving.engine.sequence import SequenceState

        start = 0
        for place, length, owner, priority in rows:
            ids = prompts[start : start + length].tolist()
            start += length
            self._sequences[place] = SequenceState(
                ids,
                n_prompt=length,
                max_length=self._engine.max_context,
                owner=f"owner {owner}",
                priority=priority,
            )
            self._engine.scheduler.add(self._sequences[place], time.monotonic_ns())

    def go_on(self, rows: list[list[int]]) -> None:
        for place, token in rows:
            self._sequences[place].tokens.append(token)

    def end(self, places: list[int]) -> None:
        for place in places:
            self._engine.scheduler.end(self._sequences.pop(place))

    def step(self) -> dict[str, torch.Tensor]:
        produced = torch.zeros(REQUESTS, dtype=torch.int64)
        logits_RV = torch.zeros(REQUESTS, self._vocab)
        if any(sequence.n_left for sequence in self._sequences.values()):
            place_of = {id(sequence): place for place, sequence in self._sequences.items()}
            plan = self._engine.scheduler.schedule(time.monotonic_ns())
            ended = [place_of[id(work.sequence)] for work in plan.works if work.n_logits]
            rows_NV = self._engine.step(plan) if plan.works else torch.empty(0, self._vocab)
            for work in plan.works:
                self._engine.scheduler.computed(work.sequence, work.n_tokens)
            for place, row_V in zip(ended, rows_NV, strict=True):
                produced[place], logits_RV[place] = 1, row_V
        return {"produced": produced, "logits": logits_RV}


REQUESTS = 9  # as in `benchmarks/catalogue/serving.py`
