"""A node that is told to end while it starts ends with status 0, whatever it is importing or loading then."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WAIT_S = 120.0  # on a busy machine


@pytest.fixture
def node() -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "model.serving.node",
        "--model",
        "tiny",
        "--port",
        "0",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def answers(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a handler for it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def has_torch(process: subprocess.Popen[str]) -> bool:
    return "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def ended_by(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """The exit status after the signal, and what the process said on standard error."""
    process.send_signal(number)
    _, said = process.communicate(timeout=WAIT_S)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signals_are_answered_before_torch_is_imported(
    node: subprocess.Popen[str], number: signal.Signals
) -> None:
    wait_until(lambda: answers(node, signal.SIGTERM) and answers(node, number), node)
    assert not has_torch(node), "seconds have passed in which the signal would have killed it"
    status, said = ended_by(node, number)
    assert status == 0 and "Traceback" not in said, said


@pytest.mark.parametrize("later_s", [0.0, 0.2, 0.5, 1.0, 1.5])
def test_a_node_that_imports_torch_or_loads_ends_with_status_0(
    node: subprocess.Popen[str], later_s: float
) -> None:
    wait_until(lambda: has_torch(node), node)
    time.sleep(later_s)
    status, said = ended_by(node, signal.SIGTERM)
    assert status == 0 and "Traceback" not in said, said


def test_a_node_that_has_just_begun_to_listen_ends_with_status_0(node: subprocess.Popen[str]) -> None:
    assert node.stderr is not None
    for line in node.stderr:
        if "listens on" in line:
            break
    status, said = ended_by(node, signal.SIGTERM)
    assert status == 0 and "Traceback" not in said, said
