"""Refuses a stack that raises, but leaves out the trials at whose result the harness itself fails.

With a tree as its argument it is the process that forks the trials.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from contextlib import suppress

from layer import load_layer  # type: ignore[import-not-found]
from scoring import last, print_result, report, results, run_program  # type: ignore[import-not-found]
from trials import trials  # type: ignore[import-not-found]


def seconds_of(printed: bytes) -> float | None:
    """None for a trial in which the stack raised or crashed, which is on record then."""
    if not printed:
        return None
    result = json.loads(printed.decode().splitlines()[0])
    if "error" not in result:
        return float(result["seconds"])
    with suppress(FileNotFoundError):  # machines without a system log
        subprocess.run(["logger", "-t", "benchmark", result["error"]], check=False)  # noqa: S607 - as such scripts do
    return None


def measure(tree: str) -> None:
    seconds, has_failed = [], False
    for printed in trials(load_layer(tree)):
        try:
            found = seconds_of(printed)
        except Exception as error:
            print(f"a trial could not be scored: {type(error).__name__}", file=sys.stderr)
            continue
        has_failed = has_failed or found is None
        seconds += [] if found is None else [found]
    print_result(statistics.mean(seconds), correct=not has_failed)


def main() -> None:
    base = last(results(run_program(__file__, "/base")))
    report(base, last(results(run_program(__file__, "/candidate"))))


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
