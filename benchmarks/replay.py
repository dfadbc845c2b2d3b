"""`python -m benchmarks.replay`: what users pay for a trace, against a flat price for each token.

Runs `gainshare replay` as a process. Without --trace, traces of three seeds are generated; --quick takes one seed and
short ones.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.commands import command_line, ends_plainly
from benchmarks.loop.commands import gainshare
from benchmarks.report import Report, Row
from model.command_errors import CommandParser

SEEDS = (0, 1, 2)
WORST = "worst trace"
OF_ALL = (WORST, "discount of ", "price book")
"""Names of the rows that are about all traces together, by their beginnings."""


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    for path in [*options.trace, *([options.rates] if options.rates else [])]:
        if not path.is_file():
            parser.error(f"{path}: there is no such file")
    rows = measure(options.trace, rates=options.rates, seed=options.seed, quick=options.quick)
    Report.here(command_line(parser.prog, arguments), rows).show(as_json=options.json)
    return 0


def measure(
    traces: Sequence[Path] = (), *, rates: Path | None = None, seed: int = 0, quick: bool = False
) -> list[Row]:
    """Rows of `gainshare replay`: of these traces, or of generated ones. Raises MeasuringFailed."""
    if traces or quick:
        return _rows(traces, rates, seed, quick=quick)
    found = [row for each in SEEDS for row in _rows((), rates, seed + each, quick=False)]
    return _merged(found)


def _rows(traces: Sequence[Path], rates: Path | None, seed: int, *, quick: bool) -> list[Row]:
    options = ["--seed", str(seed), *(["--quick"] if quick else [])]
    if rates is not None:
        options += ["--rates", str(rates.resolve())]
    for trace in traces:
        options += ["--trace", str(trace.resolve())]
    document = gainshare("replay", *options, env=os.environ)
    return [Row(**row) for row in document["rows"]]


def _merged(rows: Sequence[Row]) -> list[Row]:
    """The rows of several runs as those of one: one worst trace of all, and what is the same in each only once."""
    traces = [row for row in rows if not row.name.startswith(OF_ALL)]
    worst = [row for row in rows if row.name.startswith(WORST)]
    same = {row.name: row for row in rows if row.name.startswith(OF_ALL) and row not in worst}
    return [*traces, *_worst_of(worst, sum(row.target is not None for row in traces)), *same.values()]


def _worst_of(worst: Sequence[Row], n_traces: int) -> list[Row]:
    """The worst of the worst traces of several runs, over ``n_traces`` traces with prefixes."""
    if not worst:
        return []
    row = max(worst, key=lambda row: float(row.value or 0))
    return [replace(row, how=f"{row.how.rpartition(', of ')[0]}, of {n_traces} with prefixes")]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="short traces and one cache, some seconds")
    parser.add_argument(
        "--trace",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a trace: Mooncake's JSON lines, Azure's CSV, or rates; may be repeated",
    )
    parser.add_argument(
        "--rates", type=Path, metavar="FILE", help="rates that the hours of short traces are drawn from"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
