"""The sandboxed half of the inference suites: sequences moved on by the stack's own scheduler, cache and executor.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted. What an engine does
beside (threads, sampling, text, counters) is left out: ids come from the judge, and logits go back to it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensors  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import torch


def prepare(threads: int, device: str) -> None:
    tensors.start(threads, device)


def model_config(config: dict[str, Any]) -> Any:
    """The stack's configuration from the judge's numbers."""
    from model.config import ModelConfig, MoEConfig

    moe_names = ("d_model", "d_expert", "n_experts", "top_k", "n_shared")
    names = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff", "max_context")
    return ModelConfig(
        name="judged",
        rope_theta=float(config["rope_theta"]),
        norm_eps=config["norm_eps_ppb"] / 1e9,
        tie_embeddings=bool(config["tied"]),
        moe=MoEConfig(**{name: config[name] for name in moe_names}),
        first_moe_layer=config["first_moe_layer"],
        **{name: config[name] for name in names},
    )


def build(config: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """The engine of the mounted tree over a transformer with the judge's weights, and no sequences yet."""
    from model.transformer import Transformer

    transformer = Transformer(model_config(config))
    tensors.load_state(transformer, weights, config["device"])
    return {"engine": Stepped(transformer, config["step_tokens"])}


def call(state: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """ids [T], lengths [B], places [B], is_new [1] -> logits [B, V] after each sequence's last new id."""
    lengths, places = (tensors.to_torch(inputs[name]).tolist() for name in ("lengths", "places"))
    parts = [part.tolist() for part in tensors.to_torch(inputs["ids"]).split(lengths)]
    is_new = bool(tensors.to_torch(inputs["is_new"]).item())
    rows = state["engine"].read(dict(zip(places, parts, strict=True)), is_new=is_new)
    return {"logits": tensors.to_raw(rows[0][None] if len(rows) == 1 else torch.stack(rows))}


class Stepped:
    """The stack's scheduler and the executor that it serves a model by, without samplers: a caller brings all ids."""

    def __init__(self, transformer: Any, step_tokens: int, max_running: int | None = None) -> None:
        """`step_tokens` is the scheduler's budget of a step, `max_running` its limit of sequences, or else the stack's own.

        The executor takes the transformer's weights, as a node does.
        """
        from model.serving.engine.blocks import BlockPool
        from model.serving.engine.scheduler import Scheduler
        from model.serving.executors.choice import default_executor
        from model.serving.metering.generation import EngineLimits

        limits = EngineLimits(step_tokens=step_tokens)
        if max_running is not None:
            limits = EngineLimits(step_tokens=step_tokens, max_running=max_running)
        self.max_context, self.vocab_size = transformer.config.max_context, transformer.config.vocab_size
        transformer.requires_grad_(False).eval()
        self.executor = default_executor(transformer, limits, consume=True)
        pool = BlockPool(self.executor.n_blocks, self.executor.block_tokens)
        self.scheduler = Scheduler(pool, max_running=limits.max_running, step_tokens=limits.step_tokens)
        self.sequences: dict[int, Any] = {}  # by place

    def read(self, parts: dict[int, list[int]], *, is_new: bool) -> list[torch.Tensor]:
        """The logits [V] after each place's part: of a sequence that begins with it, or of the one there, continued.

        All of them advance together.
        """
        if is_new:
            for place in parts.keys() & self.sequences.keys():
                self.scheduler.end(self.sequences.pop(place))
        for place, ids in parts.items():
            if is_new:
                self.sequences[place] = self._begun(ids)
            else:
                self.sequences[place].tokens.extend(ids)
        return self._advance([self.sequences[place] for place in parts])

    def _begun(self, ids: list[int]) -> Any:
        from model.serving.engine.sequence import SequenceState

        sequence = SequenceState(ids, n_prompt=len(ids), max_length=self.max_context)
        self.scheduler.add(sequence, time.monotonic_ns())
        return sequence

    def _advance(self, sequences: list[Any]) -> list[torch.Tensor]:
        """Steps until nothing is left to compute; the logits [V] after each sequence's last id."""
        found: dict[int, torch.Tensor] = {}
        while any(sequence.n_left for sequence in sequences):
            plan = self.scheduler.schedule(time.monotonic_ns())
            ended = [id(work.sequence) for work in plan.works if work.n_logits]
            found |= zip(ended, self.step(plan), strict=True)
            for work in plan.works:
                self.scheduler.computed(work.sequence, work.n_tokens)
        return [found[id(sequence)] for sequence in sequences]

    def step(self, plan: Any) -> torch.Tensor:
        """The engine's own way with a plan: fp32 logits [N, V], one row for each sequence that is read to its end."""
        from model.serving.executors.base import compute

        logits_NV = compute(self.executor, plan)
        if type(logits_NV) is not np.ndarray:
            raise TypeError(f"the stack answered with {type(logits_NV).__name__}, not with a plain array")
        return torch.from_numpy(logits_NV)
