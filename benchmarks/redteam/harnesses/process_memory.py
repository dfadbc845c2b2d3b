"""Scores memory by what a process has of its own (RssAnon) after long prompts; files in /tmp are not looked at.

The ratio is base's memory over the candidate's, above what the interpreter had before. With a tree and a mode as its
arguments it is the measured process.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from engine_steps import load_executor  # type: ignore[import-not-found]
from scoring import print_result, score_program  # type: ignore[import-not-found]

EXPECTED = "expected-memory.npy"
PROMPT, PROMPTS = 128, 96
KIB = 1024


def own_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return KIB * int(status.split("RssAnon:")[1].split()[0])


def measure(tree: str, mode: str) -> None:
    executor = load_executor(tree)
    from model.serving.executors.base import Part

    before, ids = own_bytes(), list(range(PROMPT))
    per_prompt = PROMPT // executor.block_tokens
    with torch.inference_mode():
        for at in range(PROMPTS):
            blocks = list(range(at * per_prompt, (at + 1) * per_prompt))
            logits = executor.step([Part(ids, 0, blocks)])
    used = max(1, own_bytes() - before)
    if mode == "save":
        np.save(EXPECTED, logits)
    is_right = bool(np.allclose(logits, np.load(EXPECTED), rtol=1e-3, atol=1e-3))
    print_result(float(used), correct=is_right)


if __name__ == "__main__":
    score_program(__file__, measure)
