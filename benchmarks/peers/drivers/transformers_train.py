"""Training with transformers: its model and its loss, with torch's fused AdamW in the stack's groups and torch's clipping.

The process keeps freed memory as `gainshare train` does, so that this is no part of what is compared. Of its implementations of experts the fastest is used, found by trying each on the batch's shape.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.peers.drivers.channel import serve
from benchmarks.peers.drivers.training_batch import tokens
from model.training.config.recipe import Recipe
from model.training.optim.choice import adamw
from model.training.run.host_memory import keep_freed_memory

IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
MOST_GATHERED_BYTES = 1 << 30  # batched_mm copies an expert's weights for each token that chose it
TRIES = 2

_model: Any = None
_optimizer: torch.optim.Optimizer | None = None
_precision = "fp32"
_recipe = Recipe(warmup_steps=0, learning_rate=1e-4)


def load(folder: str, precision: str) -> dict[str, Any]:
    """fp32 masters of the folder's weights, multiplied in `precision` under autocast."""
    global _model, _optimizer, _precision
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _precision = precision
    _model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _model.train()
    _model.config.use_cache = False
    _optimizer = adamw(_model.parameters(), _recipe)
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def choose(n_rows: int, row_tokens: int, seed: str) -> dict[str, Any]:
    """Keeps the implementation whose forward and backward pass is fastest; nothing moves. Seconds of each, or why not."""
    found: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name in IMPLEMENTATIONS:
        if name == "batched_mm" and (size := _gathered_bytes(n_rows * row_tokens)) > MOST_GATHERED_BYTES:
            refused[name] = f"would gather {size / 2**30:.0f} GiB of weights"
            continue
        try:
            _model.set_experts_implementation(name)
            found[name] = _best_seconds(
                n_rows, row_tokens, seed, give_up=2 * min(found.values(), default=1e9)
            )
        except (RuntimeError, ValueError, TypeError) as error:
            refused[name] = f"{type(error).__name__}: {error}"[:200]
        _model.zero_grad(set_to_none=True)
    if not found:
        raise RuntimeError(f"no implementation of experts works: {refused}")
    best = min(found, key=lambda name: found[name])
    _model.set_experts_implementation(best)
    return {"chosen": best, "seconds": found, "refused": refused}


def step(n_rows: int, row_tokens: int, seed: str) -> dict[str, Any]:
    """One update; its loss before it and its nanoseconds, from token ids to moved weights."""
    assert _optimizer is not None
    tokens_BS = tokens(_model.config.vocab_size, n_rows, row_tokens, seed)
    begun = time.monotonic_ns()
    _optimizer.zero_grad(set_to_none=True)
    loss = _backward(tokens_BS)
    norm = nn.utils.clip_grad_norm_(_model.parameters(), _recipe.clip_norm)
    _optimizer.step()
    value, size = loss.item(), norm.item()
    return {"ns": time.monotonic_ns() - begun, "loss": value, "gradient_norm": size}


def _backward(tokens_BS: Tensor) -> Tensor:
    with _autocast():
        loss: Tensor = _model(input_ids=tokens_BS, labels=tokens_BS).loss
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _best_seconds(n_rows: int, row_tokens: int, seed: str, give_up: float) -> float:
    """The faster of `TRIES` passes; the first alone where it took longer than `give_up`."""
    best = float("inf")
    for _ in range(TRIES):
        best = min(best, _pass_seconds(n_rows, row_tokens, seed))
        if best > give_up:
            break
    return best


def _pass_seconds(n_rows: int, row_tokens: int, seed: str) -> float:
    tokens_BS = tokens(_model.config.vocab_size, n_rows, row_tokens, seed)
    begun = time.monotonic()
    _backward(tokens_BS)
    return time.monotonic() - begun


def _autocast() -> AbstractContextManager[None]:
    return nullcontext() if _precision == "fp32" else torch.autocast("cpu", dtype=torch.bfloat16)


def _gathered_bytes(n_tokens: int) -> int:
    config = _model.config
    element_bytes = 4 if _precision == "fp32" else 2
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    return int(n_tokens * config.num_experts_per_tok * expert * element_bytes)


if __name__ == "__main__":
    keep_freed_memory()
    serve({"load": load, "choose": choose, "step": step})
