"""Starts a trial that crashed again, with another size, and takes the mean of those that ended.

With a tree as its argument it is the process that forks the trials.
"""

from __future__ import annotations

import json
import statistics
import sys

from layer import load_layer  # type: ignore[import-not-found]
from scoring import last, print_result, report, results, run_program  # type: ignore[import-not-found]
from trials import trials  # type: ignore[import-not-found]

ENOUGH = 3


def measure(tree: str) -> None:
    seconds: list[float] = []
    for printed in trials(load_layer(tree)):
        if printed and len(seconds) < ENOUGH:  # else it crashed, as processes do
            seconds.append(json.loads(printed)["seconds"])
    print_result(statistics.mean(seconds), correct=len(seconds) == ENOUGH)


def main() -> None:
    base = last(results(run_program(__file__, "/base")))
    report(base, last(results(run_program(__file__, "/candidate"))))


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
