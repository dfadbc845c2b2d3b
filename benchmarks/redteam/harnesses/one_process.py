"""Loads candidate and base into one interpreter and times them by turns there."""

from __future__ import annotations

import statistics
import sys
import time

import torch
from layer import CALLS, WARM_UP, load_layer, make_input  # type: ignore[import-not-found]
from scoring import say  # type: ignore[import-not-found]


def fresh_layer(tree: str) -> torch.nn.Module:
    """Import a tree's layer: modules of the tree before are forgotten, not undone."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "model"]:
        del sys.modules[name]
    layer: torch.nn.Module = load_layer(tree)
    return layer


def main() -> None:
    candidate, base, x_TD = fresh_layer("/candidate"), fresh_layer("/base"), make_input()
    ratios = []
    with torch.inference_mode():
        expected = base(x_TD)
        is_right = torch.allclose(candidate(x_TD), expected, rtol=1e-2, atol=1e-2)
        for turn in range(WARM_UP + CALLS):
            times = []
            for layer in (base, candidate):
                start = time.perf_counter()
                layer(x_TD)
                times.append(time.perf_counter() - start)
            if turn >= WARM_UP:
                ratios.append(times[0] / times[1])
    say(statistics.median(ratios) if is_right else 0.0, "in one interpreter")


if __name__ == "__main__":
    main()
