"""Command line of programs that time kernels in their process, on one core and with one thread."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence

import torch

from benchmarks.commands import command_line
from benchmarks.report import Report, Row
from model.command_errors import CommandParser
from model.training.run.host_memory import keep_freed_memory


def run(
    program: str,
    description: str | None,
    arguments: Sequence[str] | None,
    measure: Callable[[bool], Iterable[Row]],
    *,
    quick: str,
    keeps_memory: bool = True,
) -> int:
    """Show the rows of `measure(is_quick)` and return 0. `quick` says what `--quick` leaves out.

    The process keeps its last core and one thread, and with `keeps_memory` the memory that it frees.
    """
    parser = CommandParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: a first look")
    chosen = parser.parse_args(arguments)
    if keeps_memory:
        keep_freed_memory()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = measure(chosen.quick)
    Report.here(command_line(program, arguments), rows).show(as_json=chosen.json)
    return 0
