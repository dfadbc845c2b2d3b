"""Helpers of the benchmarks' commands: their names in reports, checks of output paths, their end without figures.

Ended from outside, by Ctrl-C, SIGTERM or a terminal that closes, they end as Ctrl-C ends Python: what they opened is
closed on the way, so that no temporary folder is left. Whatever that way missed, no cgroup and no sample is left,
frozen ones included.
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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ParamSpec

from benchmarks.report import MeasuringFailed
from benchmarks.sandbox.living import end_all

P = ParamSpec("P")

FAILED = 1
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
UNANSWERED = (signal.SIG_DFL, signal.default_int_handler)
#: A signal often comes twice, to the process and to its group: the second must not stop the cleaning up.
CLEANING_S = 10.0
JSON = "--json"  # changes how figures are printed, not which


def command_line(program: str, arguments: Sequence[str] | None) -> str:
    """Command that prints the same figures: `program` with its arguments; None means the arguments of this process."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join([*program.split(), *(word for word in given if word != JSON)])


def check_writable(folder: Path) -> None:
    """Check a folder before long work whose results go there. Raises OSError that names the folder where no file can be made in it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"no file can be made there ({error.strerror})", str(folder)) from error


def check_output(path: Path) -> None:
    """Check that results can be written to `path` later: a new file, or one that exists. Raises OSError with the reason."""
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
    """Make `SIGNALS` raise Terminated in this thread while the block runs. One that is ignored or handled already stays so.

    Within `CLEANING_S` of the first, others change nothing. If one came, no sandbox of this process is left afterwards.
    Only the main thread gets signals: in another one this does nothing.
    """
    came_at: list[float] = []

    def end(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not came_at or now - came_at[-1] > CLEANING_S:
            came_at.append(now)
            raise Terminated(number)

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS} if is_main else {}
    ours = [number for number, handler in before.items() if handler in UNANSWERED]
    try:
        for number in ours:
            signal.signal(number, end)
        yield
    finally:
        if came_at:
            end_all()
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def dying_of_signals() -> Iterator[None]:
    """Do as `answering_signals`, for a process that others wait for: in the end it dies of the signal, as it would have."""
    try:
        with answering_signals():
            yield
    except Terminated as error:
        signal.signal(error.number, signal.SIG_DFL)
        os.kill(os.getpid(), error.number)
        raise


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
