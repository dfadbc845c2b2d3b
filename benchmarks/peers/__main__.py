"""Measure the stack and its peers, and print one report. See the package for how.

Progress is on standard error. Exit 0 where measuring worked, whether targets are met or not; 1 where it did not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.commands import ends_plainly
from benchmarks.peers import serve, train
from benchmarks.report import Report
from model.command_errors import CommandParser


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = f"python -m benchmarks.peers {options.what}" + (" --quick" if options.quick else "")
    if options.what == "train":
        rows = train.measure(quick=options.quick, setup=options.setup)
    else:
        rows = serve.measure(quick=options.quick, setup=options.setup)
    Report.here(command, rows).show(as_json=options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="what", required=True)
    for name, about in (
        ("train", "optimiser steps, compared with transformers"),
        ("serve", "the engine, compared with transformers, vLLM, llama.cpp and ik_llama.cpp"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
        command.add_argument(
            "--quick", action="store_true", help="fewer shapes and rounds, under four minutes"
        )
    for name, what, takes in (
        ("serve", "the peers", "about 4 GB, half an hour on two cores"),
        ("train", "transformers, where it is not installed,", "as `serve --setup` does"),
    ):
        commands.choices[name].add_argument(
            "--setup",
            action="store_true",
            help=f"set {what} up first, each in its own environment below .gainshare/peers ({takes})",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
