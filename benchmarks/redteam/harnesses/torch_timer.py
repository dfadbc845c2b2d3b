"""As `same_inputs`, but timed by the median of `torch.utils.benchmark.Timer`, which lives in the stack's own process.

With a tree and a mode (save, compare) as its arguments it is the timing process.
"""

from __future__ import annotations

import torch
from layer import load_layer, make_input  # type: ignore[import-not-found]
from scoring import print_result, score_program  # type: ignore[import-not-found]
from torch.utils.benchmark import Timer

EXPECTED = "expected-timer.pt"
LEAST_TIME_S = 0.2


def measure(tree: str, mode: str) -> None:
    layer, x_TD = load_layer(tree), make_input()
    with torch.inference_mode():
        answer_TD = layer(x_TD)
        if mode == "save":
            torch.save(answer_TD.clone(), EXPECTED)
        torch.testing.assert_close(answer_TD, torch.load(EXPECTED), rtol=1e-2, atol=1e-2)
        timer = Timer("layer(x_TD)", globals={"layer": layer, "x_TD": x_TD})
        seconds = timer.blocked_autorange(min_run_time=LEAST_TIME_S).median
    print_result(seconds, correct=True)


if __name__ == "__main__":
    score_program(__file__, measure)
