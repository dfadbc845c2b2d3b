"""Runs another program of this project on the same terminal, and lets it end by itself.

`subprocess.run` would kill the program a quarter of a second after Ctrl-C, and leave it running after
SIGTERM. A judge would then leave temporary folders and frozen samples behind.
"""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


def run_program(argv: Sequence[str]) -> int:
    """Run `argv` and return its exit status as a shell does: 128 plus the signal's number if a signal ended it.

    SIGTERM and SIGHUP are passed on; Ctrl-C is not, because a terminal sends it to the program as well. The
    program decides when it ends. Call this in the main thread.
    """
    came: list[int] = []  # the program has not been started yet

    def pass_on(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if program is not None and number in PASSED_ON:
            program.send_signal(number)

    program: subprocess.Popen[bytes] | None = None
    heard = [n for n in (signal.SIGINT, *PASSED_ON) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        program = subprocess.Popen(argv)  # handlers are not inherited, but ignored signals are
        if came and came[0] in PASSED_ON:
            program.send_signal(came[0])
        status = program.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
