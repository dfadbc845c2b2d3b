"""Runs another program of ours in place of a command, on the same terminal, and lets it end as it likes to.

`subprocess.run` would kill a program a quarter of a second after Ctrl-C, and leave it running after SIGTERM: a judge then
leaves temporary folders behind, and samples that stand frozen until the next sweep.
"""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


def run_program(argv: Sequence[str]) -> int:
    """The exit status of `argv`, as a shell has it: 128 and the signal's number where one ended it.

    SIGTERM and SIGHUP are passed on. Ctrl-C is not, because a terminal sends it to the program as well. In all cases the
    program decides when it ends. To be called in the main thread.
    """
    came: list[int] = []  # before there is a program to pass it on to

    def pass_on(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if program is not None and number in PASSED_ON:
            program.send_signal(number)

    program: subprocess.Popen[bytes] | None = None
    heard = [n for n in (signal.SIGINT, *PASSED_ON) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        program = subprocess.Popen(argv)  # handlers are not inherited, what is ignored is
        if came and came[0] in PASSED_ON:
            program.send_signal(came[0])
        status = program.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
