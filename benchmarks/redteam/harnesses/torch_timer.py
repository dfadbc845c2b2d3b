"""As `same_inputs`, but timed by the median of `torch.utils.benchmark.Timer`, which lives in the stack's own process.

With a tree and a mode (save, compare) as its arguments it is the timing process.
"""

from __future__ import annotations

import json
import sys

import torch
from layer import load_layer, make_input  # type: ignore[import-not-found]
from scoring import last, report, results, run_program  # type: ignore[import-not-found]
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
    print("\n" + json.dumps({"seconds": seconds, "correct": True}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        base = last(results(run_program(__file__, "/base", "save")))
        report(base, last(results(run_program(__file__, "/candidate", "compare"))))
