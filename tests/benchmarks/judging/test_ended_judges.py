"""Judges that are ended by a signal while sandboxes of theirs are frozen: nothing is left, as root and as a user."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sandbox import SandboxUnavailable, probe
from benchmarks.sandbox.accounting.placement import PREFIX, usable_hierarchies
from benchmarks.sandbox.accounting.processes import is_running, tree
from benchmarks.sandbox.levels import SandboxLevel
from tests.benchmarks.runner.runner_platform import Platform, client, platform, wait_until
from tests.benchmarks.runner.test_worker import Worker, workers
from tests.benchmarks.sandbox.ordinary_user import CHECKOUT, as_user
from tests.benchmarks.sandbox.sandbox_levels import LEVELS

__all__ = ["client", "platform", "workers"]  # fixtures

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(240)]

#: Three frozen sandboxes and a scratch folder. `argv`: the level.
JUDGE = r"""
import sys, tempfile, time
from contextlib import ExitStack
from benchmarks.commands import ends_plainly
from benchmarks.sandbox import Limits, SandboxLevel, best_level, python_runtime, spawn
python = python_runtime()
level = best_level() if sys.argv[1] == "best" else SandboxLevel(sys.argv[1])
@ends_plainly
def main():
    with ExitStack() as stack:
        stack.enter_context(tempfile.TemporaryDirectory(prefix="scratch-"))
        for slot in range(3):
            sample = stack.enter_context(spawn([*python.argv, "-c", "print('on', flush=True)\nwhile True: pass"],
                level=level, mounts=python.mounts, limits=Limits(), env=python.env, slot=slot))
            assert sample.stdout.read(3) == b"on\n"
            sample.freeze()
        print("frozen", flush=True)
        time.sleep(60)
    return 0
if __name__ == "__main__":
    sys.exit(main())
"""

#: Starts a judge, signals it `times` times in short order, and prints what is left. `facts`: level, number, times.
ENDING = r"""
import json, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
from benchmarks.sandbox.accounting.placement import PREFIX, usable_hierarchies
from benchmarks.sandbox.accounting.processes import is_running, tree
folder = tempfile.mkdtemp(prefix="gainshare-ended-")
os.chmod(folder, 0o755)
judge = subprocess.Popen([sys.executable, "-c", facts["judge"], facts["level"]], stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": folder})
first = judge.stdout.readline()
running = [(stat.pid, stat.start_ticks) for stat in tree(judge.pid)]
for _ in range(facts["times"]):
    if judge.poll() is None:
        judge.send_signal(facts["number"])
        time.sleep(0.003)
said = judge.communicate(timeout=40)[1]
time.sleep(0.2)
hierarchies = usable_hierarchies()
parents = {*hierarchies.v1.values(), *filter(None, [hierarchies.v2])}
groups = [path for parent in parents for path in parent.glob(f"{PREFIX}*-{judge.pid}-*")]
left = {
    "processes": [pid for pid, ticks in running if is_running(pid, ticks)],
    "groups": [str(path) for path in groups],
    "folders": os.listdir(folder),
}
for pid in left["processes"]: os.kill(pid, signal.SIGKILL)
for path in groups:
    if (path / "freezer.state").exists(): (path / "freezer.state").write_text("THAWED")
shutil.rmtree(folder)
print(json.dumps({"first": first, "running": len(running), "status": judge.returncode, "said": said, "left": left}))
"""


def ended(run: Callable[[str], "subprocess.CompletedProcess[str]"], level: str, times: int) -> dict[str, Any]:
    facts = {"judge": JUDGE, "level": level, "number": int(signal.SIGTERM), "times": times}
    answer = run(f"facts = {facts!r}\n{ENDING}")
    if "SandboxUnavailable" in answer.stdout + answer.stderr:
        pytest.skip("expected: no sandbox for this user on this machine")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    if "SandboxUnavailable" in found["said"]:
        pytest.skip(f"expected: {found['said'].splitlines()[-1]}")
    return found


def as_myself(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("times", [1, 60])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("run", [as_myself, as_user])
def test_a_terminated_judge_leaves_no_frozen_sandbox(
    run: Callable[[str], "subprocess.CompletedProcess[str]"], level: str, times: int
) -> None:
    """A second signal, as when a whole group is signalled, does not stop the cleaning up that the first began."""
    if level == "container":
        try:
            probe(SandboxLevel.CONTAINER)
        except SandboxUnavailable as error:
            pytest.skip(f"expected: {error}")
    found = ended(run, level, times)
    assert found["first"] == "frozen\n" and found["running"] > 6, found["said"]
    assert found["left"] == {"processes": [], "groups": [], "folders": []}, found["said"]
    assert found["status"] in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert "Traceback" not in found["said"]


def groups(pid: int) -> list[Path]:
    hierarchies = usable_hierarchies()
    parents = {*hierarchies.v1.values(), *filter(None, [hierarchies.v2])}
    return [path for parent in parents for path in parent.glob(f"{PREFIX}*-{pid}-*")]


def has_frozen(pid: int) -> bool:
    """Whether a sandbox of this judge is frozen: a cgroup says so itself, else its processes are stopped."""
    for folder in groups(pid):
        for name, frozen in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
            if (folder / name).exists() and (folder / name).read_text().strip() == frozen:
                return True
    return any(stat.state == "T" for stat in tree(pid))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A tree without sources to compile, and a temporary folder, both open to the sandbox's own uids."""
    with tempfile.TemporaryDirectory(prefix="gainshare-ended-") as name:
        Path(name).chmod(0o755)
        hidden = shutil.ignore_patterns("csrc", "_native.so", "__pycache__")
        shutil.copytree(Path(CHECKOUT, "model"), Path(name, "base", "model"), ignore=hidden)
        Path(name, "tmp").mkdir(mode=0o755)
        yield Path(name)


def test_a_command_that_is_terminated_while_it_measures_leaves_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.bench", "--kind", "aa", "--preset", "tiny"]
    with subprocess.Popen(
        [*command, "--base", str(folder / "base")],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
    ) as judging:
        wait_until(
            lambda: judging.poll() is not None or has_frozen(judging.pid), timeout_s=120, what="frozen"
        )
        running = [(stat.pid, stat.start_ticks) for stat in tree(judging.pid)]
        for _ in range(20):
            judging.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        said = judging.communicate(timeout=40)
    assert judging.returncode in (128 + signal.SIGTERM, -signal.SIGTERM), said
    assert len(running) > 4 and "Traceback" not in said[1]
    assert [pid for pid, ticks in running if is_running(pid, ticks)] == []
    assert groups(judging.pid) == []
    assert [path.name for path in (folder / "tmp").iterdir() if path.suffix != ".lock"] == []


def pool_process(worker: Worker) -> int:
    """The process of the worker that judges."""
    return next(stat.pid for stat in tree(worker.process.pid) if stat.parent == worker.process.pid)


@pytest.mark.parametrize("whole", [False, True], ids=["the judge alone", "the worker, as it is stopped"])
def test_a_runner_that_is_terminated_leaves_no_frozen_sandbox(
    platform: Platform, workers: Callable[..., Worker], short_folder: Path, whole: bool
) -> None:
    """Signalled itself, as by a service manager, or told to stop by its worker, as `gainshare down` has it."""
    platform.lease_s = 60
    worker = workers(platform, TMPDIR=str(short_folder))  # with another device
    wait_until(lambda: worker.says(" ready."), timeout_s=120, what="the worker is ready")
    judge = pool_process(worker)
    worker.wake(platform.run["id"])
    wait_until(lambda: has_frozen(judge), timeout_s=120, what="a sandbox is frozen")
    running = [(stat.pid, stat.start_ticks) for stat in tree(judge)]
    assert len(running) > 3 and any((short_folder / "home" / "trees").iterdir())
    if whole:
        worker.process.send_signal(signal.SIGQUIT)
        worker.process.wait(60)
    else:
        os.kill(judge, signal.SIGTERM)
    wait_until(
        lambda: not any(is_running(pid, ticks) for pid, ticks in running),
        timeout_s=20,
        what="all of it has ended",
    )
    assert groups(judge) == []
    assert not (short_folder / "home" / "trees").exists()
    assert platform.evidence == []
