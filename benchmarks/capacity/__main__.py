"""Simulate what each scaling policy costs, against the smallest fixed fleet that meets the objective; print one report.

Each comparison is a call of `gainshare simulate`, whose rows have its name in front. Traces are the product's own, or
files: rates (t_s,rate), Azure's CSV for the lengths of conversations, Mooncake's JSON lines for prefixes. Exit 0 where
measuring worked, whether targets are met or not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.capacity.comparisons import Traces, comparisons, measure
from benchmarks.commands import command_line, ends_plainly
from benchmarks.report import Report
from model.command_errors import CommandParser


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--trace", type=Path, action="append", default=[], metavar="FILE", help="may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--quick", action="store_true", help="a day, one cold start, policies as published: a minute"
    )
    options = parser.parse_args(arguments)
    rows = measure(comparisons(Traces.of(options.trace), quick=options.quick))
    Report.here(command_line(parser.prog, arguments), rows).show(as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
