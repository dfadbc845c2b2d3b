"""What the benchmarks' commands share: their names in reports, where results may go, how they end without figures.

Ended from outside, by Ctrl-C, SIGTERM or a terminal that closes, they end as Ctrl-C ends Python: what they opened is
closed on the way, so that no temporary folder, cgroup or frozen sample is left. Knows nothing of what they measure.
"""

from __future__ import annotations

import errno
import functools
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, ParamSpec

from benchmarks.report import MeasuringFailed

P = ParamSpec("P")

FAILED = 1
SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # Python's own answer to Ctrl-C is a KeyboardInterrupt already
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


def check_output(path: Path) -> None:
    """That results can be written to `path` later: a new file, or one that is there. Raises OSError that names what is not."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder: name a file in it", str(path))
    if not path.exists():
        check_writable(path.parent)
    elif not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "this file cannot be written", str(path))


class Terminated(KeyboardInterrupt):
    """One of `SIGNALS` came: whatever cleans up after Ctrl-C does so after this."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def answering_signals() -> Iterator[None]:
    """While the block runs, `SIGNALS` raise Terminated in this thread. One that is ignored or handled already stays so.

    Only the main thread gets signals: in another one this does nothing.
    """

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated(number)

    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in SIGNALS if is_main and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, end)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def ends_plainly(main: Callable[P, int]) -> Callable[P, int]:
    """`main` with one line on standard error in place of a traceback.

    Status 1 where measuring failed; as a shell has it, 128 and the signal's number where a signal ended it: 130 after
    Ctrl-C, 143 after SIGTERM.
    """

    @functools.wraps(main)
    def ending(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            with answering_signals():
                return main(*args, **kwargs)
        except MeasuringFailed as error:
            sys.stderr.write(f"error: {error}\n")
            return FAILED
        except KeyboardInterrupt as error:
            sys.stderr.write("interrupted: no figures\n")
            return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)

    return ending
