"""Training with this stack: `Trainer.update` on an unpacked batch, in a process set up as `gainshare train` sets up its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.drivers.channel import serve
from benchmarks.peers.drivers.training_batch import tokens
from model import hf, native
from model.data.batches.batch import Batch
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_targets
from model.training.optim.precision import Precision
from model.training.run.host_memory import keep_freed_memory
from model.training.run.trainer import Trainer
from model.transformer import Transformer

_trainer: Trainer | None = None


def load(folder: str, precision: Precision) -> dict[str, Any]:
    """fp32 masters of the folder's weights, multiplied in `precision`."""
    global _trainer
    torch.set_num_threads(1)
    config, state = hf.load(Path(folder), dtype=torch.float32)
    model = Transformer(config)
    model.load_state_dict(state)
    _trainer = Trainer(model, Recipe(warmup_steps=0, learning_rate=1e-4), precision=precision)
    return {"torch": torch.__version__, "kernels": native.state()}


def step(n_rows: int, row_tokens: int, seed: str) -> dict[str, Any]:
    """One update; its loss before it and its nanoseconds, from token ids to moved weights."""
    assert _trainer is not None
    batch = _batch(_trainer, n_rows, row_tokens, seed)
    begun = time.monotonic_ns()
    update = _trainer.update([batch])
    return {"ns": time.monotonic_ns() - begun, "loss": update.loss, "gradient_norm": update.gradient_norm}


def profile(n_rows: int, row_tokens: int, seed: str, rows: int = 30) -> dict[str, Any]:
    """Profile of a step by operator, as torch's profiler gives it."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    assert _trainer is not None
    batch = _batch(_trainer, n_rows, row_tokens, seed)
    with profiled(activities=[ProfilerActivity.CPU]) as profiler:
        _trainer.update([batch])
    return {"table": profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows)}


def _batch(trainer: Trainer, n_rows: int, row_tokens: int, seed: str) -> Batch:
    tokens_BS = tokens(trainer.model.config.vocab_size, n_rows, row_tokens, seed)
    positions_BS = torch.arange(row_tokens).expand_as(tokens_BS).contiguous()
    return Batch(tokens_BS, positions_BS, torch.zeros_like(tokens_BS), next_token_targets(tokens_BS))


if __name__ == "__main__":
    keep_freed_memory()
    serve({"load": load, "step": step, "profile": profile})
