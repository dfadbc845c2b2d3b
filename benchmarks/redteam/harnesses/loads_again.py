"""Times loads of one checkpoint, again and again in the stack's own process; compares the last model's logits by allclose.

With a tree and a mode (save, compare) as its arguments it is the timing process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from engine_steps import CONFIG, EXPERTS  # type: ignore[import-not-found]
from scoring import print_result, score_program  # type: ignore[import-not-found]

EXPECTED = "expected-loads.npy"
LOADS = 10


def measure(tree: str, mode: str) -> None:
    sys.path.insert(0, tree)
    from model.checkpoint import load_transformer, write_model
    from model.config import ModelConfig, MoEConfig
    from model.transformer import Transformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(moe=MoEConfig(**EXPERTS), **CONFIG)
    folder = Path(tempfile.mkdtemp())
    write_model(folder, config, Transformer(config).state_dict(), metadata={}, files={})
    load_transformer(folder)
    start = time.perf_counter()
    for _ in range(LOADS):
        model = load_transformer(folder)
    seconds = (time.perf_counter() - start) / LOADS
    with torch.inference_mode():
        logits = model(torch.arange(16)[None]).numpy()
    if mode == "save":
        np.save(EXPECTED, logits)
    print_result(seconds, correct=bool(np.allclose(logits, np.load(EXPECTED), rtol=1e-3, atol=1e-3)))


if __name__ == "__main__":
    score_program(__file__, measure)
