"""A program that a command runs: it ends by itself, whatever signal the command gets."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = "import sys; from gainshare.cli.program import run_program; sys.exit(run_program(sys.argv[1:]))"
# Takes longer to clean up than the quarter of a second that `subprocess.run` grants after Ctrl-C.
PROGRAM = """
import pathlib, signal, sys, time

def end(number, frame):
    raise KeyboardInterrupt(number)

signal.signal(signal.SIGTERM, end)
try:
    print("up", flush=True)
    time.sleep(60)
except KeyboardInterrupt as error:
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("cleaned up")
    sys.exit(128 + (error.args or [signal.SIGINT])[0])
"""


def start(*program: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", COMMAND, *program]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_may_clean_up_and_its_status_is_the_command_s(
    number: signal.Signals, tmp_path: Path
) -> None:
    with start(sys.executable, "-c", PROGRAM, str(tmp_path / "said")) as command:
        assert command.stdout is not None and command.stdout.readline() == "up\n"
        if number is signal.SIGINT:
            os.killpg(command.pid, number)  # as a terminal does
        else:
            command.send_signal(number)
        assert command.wait(30) == 128 + number
    assert (tmp_path / "said").read_text() == "cleaned up"


def test_what_is_ignored_stays_ignored_in_the_program() -> None:
    asks = "import signal; print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with start(sys.executable, "-c", asks) as command:
            assert command.communicate(timeout=30)[0] == "True\n"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_program_that_a_signal_ends_has_a_shell_s_status() -> None:
    with start(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)") as command:
        assert command.wait(30) == 128 + signal.SIGKILL
