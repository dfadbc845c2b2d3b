"""A judge that is told to stop while it builds: it ends soon, and leaves no process, cgroup or folder."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.commands import Terminated, answering_signals
from benchmarks.evidence.signing import generate_key
from benchmarks.judging.cancellation import Cancellation, Cancelled
from benchmarks.judging.job import Job
from benchmarks.judging.judge import judge
from benchmarks.pairs.builds.build import build_tree
from benchmarks.sandbox import best_level
from benchmarks.sandbox.accounting.placement import PREFIX, usable_hierarchies
from benchmarks.sandbox.accounting.processes import read_stat, tree
from tests.benchmarks.pairs.slow_source import slow_source

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(180)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Two trees, readable for the sandbox's own uids; only the candidate's takes long to build."""
    with tempfile.TemporaryDirectory(prefix="gainshare-interrupted-") as name:
        for side in ("base", "candidate"):
            sources = Path(name, side, "model", "csrc")
            sources.mkdir(parents=True)
            (sources.parent / "__init__.py").write_text("")
        (sources / "slow.cpp").write_text(slow_source(400))  # minutes, unless it is ended
        Path(name, "tmp").mkdir()
        for path in (Path(name), *Path(name).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield Path(name)


def compilers(pid: int) -> list[int]:
    """Those among the descendants of `pid`."""
    found = [stat.pid for stat in tree(pid)]
    return [pid for pid in found if b"cc1plus" in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for_compiler(pid: int) -> None:
    deadline = time.monotonic() + 60
    while not compilers(pid):
        assert time.monotonic() < deadline, "no compiler was started"
        time.sleep(0.02)


def groups(pid: int) -> list[Path]:
    """Cgroups that a judge with this process id has left."""
    hierarchies = usable_hierarchies()
    parents = {*hierarchies.v1.values(), *([hierarchies.v2] if hierarchies.v2 else [])}
    return [path for parent in parents for path in parent.glob(f"{PREFIX}*-{pid}-*")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_compiles_and_nothing_is_left(
    folder: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "benchmarks.bench", "--base", str(folder / "base")]
    with subprocess.Popen(
        [*command, "--candidate", str(folder / "candidate")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
    ) as judging:
        wait_for_compiler(judging.pid)
        running = [stat.pid for stat in tree(judging.pid)]
        judging.send_signal(number)
        said = judging.communicate(timeout=30)  # the compiler alone would continue for much longer
    assert (judging.returncode, said[0]) == (128 + number, "")
    assert said[1].endswith("interrupted: no figures\n") and "Traceback" not in said[1]
    assert [path.name for path in (folder / "tmp").iterdir() if not path.name.endswith(".lock")] == []
    assert [stat for pid in running if (stat := read_stat(pid)) and stat.is_alive] == []
    assert groups(judging.pid) == []


class Silent:
    def on_commitment(self, commitment: str) -> None: ...

    def on_progress(self, stage: str, pairs_done: int, pairs_max: int) -> bool:
        return False

    def on_pair(self, sealed: dict[str, Any]) -> None: ...

    def on_log(self, text: str) -> None: ...


def test_cancelling_ends_both_builds_of_a_judge(folder: Path) -> None:
    cancellation = Cancellation()

    def cancel_once_it_compiles() -> None:
        wait_for_compiler(os.getpid())
        cancellation.cancel("withdrawn")

    thread = threading.Thread(target=cancel_once_it_compiles, daemon=True)
    thread.start()
    job = Job("run-1", "confirmation", "moe_forward", "tiny", "base", "candidate")
    trees = {side: folder / side for side in ("base", "candidate")}
    with pytest.raises(Cancelled, match="withdrawn"):
        judge(job, tree_dirs=trees, key=generate_key(), callbacks=Silent(), cancellation=cancellation)
    thread.join()
    assert compilers(os.getpid()) == []


def test_what_was_cancelled_before_is_not_begun(folder: Path) -> None:
    cancellation = Cancellation()
    cancellation.cancel("withdrawn")
    with pytest.raises(Cancelled, match="withdrawn"):
        build_tree("candidate", folder / "candidate", level=best_level(), slot=1, cancellation=cancellation)


def test_all_that_runs_is_ended_what_is_over_is_not() -> None:
    ended: list[str] = []
    cancellation = Cancellation()
    with cancellation.ends(lambda: ended.append("over")):
        pass
    with cancellation.ends(lambda: ended.append("first")), cancellation.ends(lambda: ended.append("second")):
        cancellation.cancel("withdrawn")
    with cancellation.ends(lambda: ended.append("late")):
        cancellation.cancel("again")
    assert ended == ["first", "second", "late", "late"] and cancellation.reason == "withdrawn"


def test_a_signal_that_somebody_else_answers_is_left_to_him() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with answering_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Terminated):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
