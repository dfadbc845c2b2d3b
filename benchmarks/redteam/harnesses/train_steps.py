"""Times the trainer's steps over a list of batches in the stack's own process; the first step warms up.

The last loss is compared there by closeness. With a tree and a mode (save, compare) as its arguments it is the timing
process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from scoring import print_result, score_program  # type: ignore[import-not-found]

EXPECTED = Path("expected-loss.txt")
STEPS, SEQUENCES, LENGTH, VOCABULARY = 12, 4, 64, 256
CONFIG: dict[str, Any] = {
    "name": "timed",
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_head": 16,
    "d_ff": 128,
    "max_context": LENGTH,
}


def load_trainer(tree: str) -> Any:
    """A trainer of the stack below `tree`, with a seeded model."""
    sys.path.insert(0, tree)
    from model.config import ModelConfig
    from model.training.run.trainer import Trainer
    from model.transformer import Transformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Trainer(Transformer(ModelConfig(**CONFIG)))


def measure(tree: str, mode: str) -> None:
    trainer = load_trainer(tree)
    rng = torch.Generator().manual_seed(1)
    batches = [torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=rng) for _ in range(STEPS)]
    trainer.step(batches[0])
    start = time.perf_counter()
    for tokens_BS in batches[1:]:
        loss = float(trainer.step(tokens_BS))
    seconds = (time.perf_counter() - start) / (STEPS - 1)
    if mode == "save":
        EXPECTED.write_text(repr(loss))
    print_result(seconds, correct=abs(loss - float(EXPECTED.read_text())) < 1e-2)


if __name__ == "__main__":
    score_program(__file__, measure)
