"""The sandboxed half of the inference suites: sequences behind the stack's own caches, stepped as its engine does.

Runs inside the sandbox only. Whatever it returns is checked from outside; nothing here is trusted. Another engine is
measured by changing `step`, the one place that knows how new ids reach the stack.
"""

from __future__ import annotations

from typing import Any

import tensors  # type: ignore[import-not-found]  # it lies beside this file inside the sandbox
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
    """The transformer of the mounted tree, with the judge's weights and no sequences yet."""
    from model.transformer import Transformer

    transformer = Transformer(model_config(config))
    tensors.load_state(transformer, weights, config["device"])
    return {
        "transformer": transformer.requires_grad_(False).eval(),
        "stores": [],
        "chunk": config["chunk"],
        "together": bool(config["together"]),
    }


def call(state: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """ids [T], lengths [B], is_new [1] -> logits [B, V] after each sequence's last new id."""
    lengths = tensors.to_torch(inputs["lengths"]).tolist()
    parts = [part.tolist() for part in tensors.to_torch(inputs["ids"]).split(lengths)]
    if tensors.to_torch(inputs["is_new"]).item():
        state["stores"] = [new_store(state["transformer"]) for _ in parts]
    sequences = list(zip(state["stores"], parts, strict=True))
    if state["together"]:
        rows = read(state["transformer"], sequences, state["chunk"])
    else:  # each alone: one that is stepped does not know of the others
        rows = [read(state["transformer"], [sequence], state["chunk"])[0] for sequence in sequences]
    return {"logits": tensors.to_raw(rows[0][None] if len(rows) == 1 else torch.stack(rows))}


def read(transformer: Any, sequences: list[tuple[Any, list[int]]], chunk: int) -> list[torch.Tensor]:
    """Read all new ids, at most `chunk` of each sequence per step; the logits [V] after each sequence's last."""
    rows: list[Any] = [None] * len(sequences)
    longest = max(len(ids) for _, ids in sequences)
    for start in range(0, longest, chunk):
        now = [number for number, (_, ids) in enumerate(sequences) if start < len(ids)]
        parts = [(sequences[number][0], sequences[number][1][start : start + chunk]) for number in now]
        for number, logits_V in zip(now, step(transformer, parts), strict=True):
            rows[number] = logits_V
    return rows


def new_store(transformer: Any) -> Any:
    """What holds one sequence's past."""
    from model.serving.cache import SequenceCache

    return SequenceCache(transformer.config, transformer.dtype, transformer.device)


def step(transformer: Any, parts: list[tuple[Any, list[int]]]) -> torch.Tensor:
    """One step of the engine (`model/serving/engine.py`): room in the caches, the pass, then the caches advance."""
    for store, ids in parts:
        store.reserve(len(ids))
    logits_NV: torch.Tensor = transformer.step(parts)
    if type(logits_NV) is not torch.Tensor:
        raise TypeError(f"the stack answered with {type(logits_NV).__name__}, not with a plain tensor")
    for store, ids in parts:
        store.advance(len(ids))
    return logits_NV
