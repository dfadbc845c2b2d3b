"""What the benchmarks' commands share: their names in reports, where results may go, how they end without figures.

Knows nothing of what they measure.
"""

from __future__ import annotations

import functools
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

from benchmarks.report import MeasuringFailed

P = ParamSpec("P")

FAILED = 1
INTERRUPTED = 130  # what a shell says of Ctrl-C
JSON = "--json"  # changes how figures are printed, not which


def command_line(program: str, arguments: Sequence[str] | None) -> str:
    """What prints the same figures: `program` with the arguments that it was given; None stands for the process's own."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join([*program.split(), *(word for word in given if word != JSON)])


def check_writable(folder: Path) -> None:
    """Before long work whose results go there. Raises OSError that names the folder where no file can be made in it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"no file can be made there ({error.strerror})", str(folder)) from error


def ends_plainly(main: Callable[P, int]) -> Callable[P, int]:
    """`main` with one line on standard error in place of a traceback: status 1 where measuring failed, 130 after Ctrl-C."""

    @functools.wraps(main)
    def ending(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except MeasuringFailed as error:
            sys.stderr.write(f"error: {error}\n")
            return FAILED
        except KeyboardInterrupt:
            sys.stderr.write("interrupted: no figures\n")
            return INTERRUPTED

    return ending
