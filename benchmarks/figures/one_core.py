"""The command line of what times kernels in its own process, on one core and with one thread. Knows no kernel."""

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
) -> int:
    """Shows what `measure(is_quick)` gives, 0. `quick` is for people: what `--quick` leaves out.

    The process keeps its last core, one thread and the memory that it frees.
    """
    parser = CommandParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: a first look")
    chosen = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = measure(chosen.quick)
    Report.here(command_line(program, arguments), rows).show(as_json=chosen.json)
    return 0
