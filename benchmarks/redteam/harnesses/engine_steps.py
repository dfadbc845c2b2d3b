"""Times steps of one sequence by the executor that the stack serves a model with, in the stack's own process.

The first logits are compared there by numpy.allclose. With a tree and a mode (save, compare) as its arguments it is the
timing process.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from scoring import print_result, score_program  # type: ignore[import-not-found]

EXPECTED = "expected-steps.npy"
PAST, WARM_UP, CALLS = 64, 3, 40
CONFIG: dict[str, Any] = {
    "name": "timed",
    "vocab_size": 1024,
    "d_model": 256,
    "n_layers": 4,
    "n_heads": 8,
    "n_kv_heads": 2,
    "d_head": 32,
    "d_ff": 512,
    "max_context": 256,
}
EXPERTS: dict[str, Any] = {"d_model": 256, "d_expert": 128, "n_experts": 16, "top_k": 2, "n_shared": 1}


def load_executor(tree: str) -> Any:
    """The executor of the stack below `tree`, for a seeded mixture of experts."""
    sys.path.insert(0, tree)
    from model.config import ModelConfig, MoEConfig
    from model.serving.executors.choice import default_executor
    from model.serving.metering.generation import EngineLimits
    from model.transformer import Transformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = Transformer(ModelConfig(moe=MoEConfig(**EXPERTS), **CONFIG))
    limits = EngineLimits(max_cache_bytes=64 << 20)
    return default_executor(transformer.requires_grad_(False).eval(), limits)


def measure(tree: str, mode: str) -> None:
    executor = load_executor(tree)
    from model.serving.executors.base import Part

    blocks = list(range(PAST // executor.block_tokens + 1))
    step = [Part([1], PAST, blocks)]
    with torch.inference_mode():
        executor.step([Part(list(range(PAST)), 0, blocks, 0)])
        logits_NV = executor.step(step)
        if mode == "save":
            np.save(EXPECTED, logits_NV)
        is_right = np.allclose(logits_NV, np.load(EXPECTED), rtol=1e-2, atol=1e-2)
        for _ in range(WARM_UP):
            executor.step(step)
        start = time.perf_counter()
        for _ in range(CALLS):
            executor.step(step)
        seconds = (time.perf_counter() - start) / CALLS
    print_result(seconds, correct=is_right)


if __name__ == "__main__":
    score_program(__file__, measure)
