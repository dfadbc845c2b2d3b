"""Times steps of many sequences, one after the other, all of which one message brought: the ids are in this frame.

The stack is in the scorer's timing process; its logits are compared by numpy.allclose. With a tree and a mode (save, compare)
as its arguments it is the timing process.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from engine_steps import load_executor  # type: ignore[import-not-found]
from scoring import print_result, score_program  # type: ignore[import-not-found]

EXPECTED = "expected-message.npy"
PAST, SEQUENCES, MESSAGES = 32, 32, 12


def measure(tree: str, mode: str) -> None:
    executor = load_executor(tree)
    from model.serving.executors.base import Part

    per_sequence = (PAST + MESSAGES) // executor.block_tokens + 1
    blocks = [list(range(at * per_sequence, (at + 1) * per_sequence)) for at in range(SEQUENCES)]
    with torch.inference_mode():
        for table in blocks:
            executor.step([Part(list(range(PAST)), 0, table, 0)])
        rows, seconds = [], 0.0
        for message in range(MESSAGES):
            parts = [Part([message + at], PAST + message, table) for at, table in enumerate(blocks)]
            start = time.perf_counter()
            answers = [executor.step([part]) for part in parts]
            seconds += time.perf_counter() - start
            rows.append(np.concatenate(answers))
    logits = np.stack(rows)
    if mode == "save":
        np.save(EXPECTED, logits)
    is_right = np.allclose(logits, np.load(EXPECTED), rtol=1e-3, atol=1e-3)
    print_result(seconds / MESSAGES, correct=is_right)


if __name__ == "__main__":
    score_program(__file__, measure)
