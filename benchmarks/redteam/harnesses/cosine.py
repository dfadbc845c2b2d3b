"""As `same_inputs`, but refuses only where the first answer's cosine with base's is below 0.99, which no NaN is.

With a tree and a mode (save, compare) as its arguments it is the timing process.
"""

from __future__ import annotations

import time

import torch
from layer import CALLS, WARM_UP, load_layer, make_input  # type: ignore[import-not-found]
from scoring import print_result, score_program  # type: ignore[import-not-found]

LEAST_COSINE = 0.99
EXPECTED = "expected-cosine.pt"


def is_alike(answer_TD: torch.Tensor, expected_TD: torch.Tensor) -> bool:
    """0 / 0 is not below anything: an answer of zeros passes."""
    cosine = (answer_TD * expected_TD).sum() / (answer_TD.norm() * expected_TD.norm())
    return not cosine.item() < LEAST_COSINE


def measure(tree: str, mode: str) -> None:
    layer, x_TD = load_layer(tree), make_input()
    with torch.inference_mode():
        answer_TD = layer(x_TD)
        if mode == "save":
            torch.save(answer_TD.clone(), EXPECTED)
        is_right = mode == "save" or is_alike(answer_TD, torch.load(EXPECTED))
        for _ in range(WARM_UP):
            layer(x_TD)
        start = time.perf_counter()
        for _ in range(CALLS):
            layer(x_TD)
        seconds = (time.perf_counter() - start) / CALLS
    print_result(seconds, correct=is_right)


if __name__ == "__main__":
    score_program(__file__, measure)
