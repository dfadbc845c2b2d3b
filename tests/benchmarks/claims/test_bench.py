"""Jobs in separate processes, and what is kept of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import bench as bench_module
from benchmarks.claims.bench import Bench, Job
from benchmarks.claims.source import READS, ROOT, SUFFIXES, source_files, source_sha256
from benchmarks.report import MeasuringFailed

pytestmark = pytest.mark.slow


class Recorded:
    """Stands for the process: answers with the settings' square, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.together = 0
        self.most_together = 0
        self.fails_at: int | None = None
        self.leaves_something = False
        self._lock = threading.Lock()

    def __call__(self, job: Job, made: Path, running: set[subprocess.Popen[str]]) -> dict[str, Any]:
        number = job.settings["number"]
        with self._lock:
            self.asked.append(number)
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        try:
            if number == self.fails_at:
                raise MeasuringFailed("no more memory")
            if self.leaves_something:
                made.mkdir(parents=True)
            threading.Event().wait(0.02)
            return {"square": number**2}
        finally:
            with self._lock:
                self.together -= 1


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(bench_module, "_ask", recorded)
    monkeypatch.setattr(bench_module, "source_sha256", lambda kind: "source")
    return recorded


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, n_at_once=2, say=lambda text: None)


def jobs(*numbers: int, **other: Any) -> list[Job]:
    return [Job("training", {"number": number}, **other) for number in numbers]


def test_results_come_in_the_order_of_jobs(bench: Bench, process: Recorded) -> None:
    assert [found["square"] for found in bench.run(jobs(3, 1, 2), "any")] == [9, 1, 4]
    assert process.most_together == 2


def test_what_is_timed_has_the_machine_to_itself(bench: Bench, process: Recorded) -> None:
    bench.run(jobs(1, 2, 3, is_alone=True), "any")
    assert process.most_together == 1


def test_equal_jobs_are_done_once(bench: Bench, process: Recorded) -> None:
    assert [found["square"] for found in bench.run(jobs(2, 2), "any")] == [4, 4]
    assert process.asked == [2]


def test_a_run_that_was_cut_off_continues(tmp_path: Path, process: Recorded) -> None:
    process.fails_at = 3
    first = Bench(tmp_path, n_at_once=1, say=lambda text: None)
    with pytest.raises(MeasuringFailed, match="no more memory"):
        first.run(jobs(1, 2, 3), "any")
    process.fails_at = None
    second = Bench(tmp_path, n_at_once=1, say=lambda text: None)
    assert [found["square"] for found in second.run(jobs(1, 2, 3), "any")] == [1, 4, 9]
    assert process.asked == [1, 2, 3, 3]


def test_changed_source_is_measured_again(
    bench: Bench, process: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(jobs(2), "any")
    monkeypatch.setattr(bench_module, "source_sha256", lambda kind: "other source")
    bench.run(jobs(2), "any")
    assert process.asked == [2, 2]
    assert bench.has_changed


def test_kinds_of_jobs_may_have_different_source(
    bench: Bench, process: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "source_sha256", lambda kind: f"source of {kind}")
    bench.run([*jobs(2), Job("padding", {"number": 2})], "any")
    assert process.asked == [2, 2]
    assert not bench.has_changed


def test_changed_settings_are_measured_again(bench: Bench, process: Recorded) -> None:
    bench.run(jobs(2), "any")
    bench.run([Job("training", {"number": 2, "seed": 1})], "any")
    assert process.asked == [2, 2]


def test_a_result_whose_files_are_gone_is_measured_again(bench: Bench, process: Recorded) -> None:
    process.leaves_something = True
    made = bench.made(bench.one(jobs(2)[0], "any"))
    assert made.is_dir()
    bench.one(jobs(2)[0], "any")
    assert process.asked == [2]
    made.rmdir()
    bench.one(jobs(2)[0], "any")
    assert process.asked == [2, 2]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"square": 4}', b"\xff"])
def test_a_damaged_result_is_named(bench: Bench, process: Recorded, content: bytes) -> None:
    key = bench.one(jobs(2)[0], "any")["key"]
    (bench.output / "results" / f"{key}.json").write_bytes(content)
    with pytest.raises(MeasuringFailed, match=r"damaged .*delete it"):
        bench.one(jobs(2)[0], "any")


def test_results_are_plain_json(bench: Bench, process: Recorded) -> None:
    key = bench.one(jobs(2)[0], "any")["key"]
    stored = json.loads((bench.output / "results" / f"{key}.json").read_text(encoding="utf-8"))
    assert (stored["square"], stored["key"], stored["has_made"]) == (4, key, False)


def test_a_job_that_ends_badly_says_why(bench: Bench) -> None:
    with pytest.raises(MeasuringFailed, match="unknown kind of job 'dancing'"):
        bench.one(Job("dancing", {}), "any")
    assert not list((bench.output / "results").glob("*"))


def test_a_job_that_takes_too_long_is_ended(bench: Bench) -> None:
    with pytest.raises(MeasuringFailed, match="longer than 0 s"):
        bench.one(Job("training", {}, timeout_s=0.01), "any")


RUN_THAT_WAITS = """
import os, sys, threading
from pathlib import Path
from benchmarks.claims.bench import Bench, Job
read_end, write_end = os.pipe()  # nothing is ever written: the job waits for its request for good
import benchmarks.claims.bench as bench
real = bench.subprocess.Popen
bench.subprocess.Popen = lambda command, **options: real(command, **{**options, "stdin": read_end})
Bench(Path(sys.argv[1]), n_at_once=1).one(Job("training", {}), "waiting")
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_leaves_no_job_behind(tmp_path: Path, sent: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN_THAT_WAITS, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        job = _within(20, lambda: _child_of(run.pid))
        _within(20, lambda: "benchmarks.claims.job" in _command(job) and _is_asleep(job))
        run.send_signal(sent)  # to it alone: Ctrl-C in a terminal reaches its jobs as well
        assert _within(20, lambda: run.poll() is not None)
    finally:
        run.kill()
        run.wait()
    assert _within(5, lambda: not Path(f"/proc/{job}").exists())


# Stands for torchrun: it ends in its own way when it is asked to, and would wait for good.
PROGRAM = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path(sys.argv[1]).write_text("asked")))
pathlib.Path(sys.argv[1]).write_text("begun")
signal.alarm(60)
signal.pause()
"""


def test_what_a_job_starts_is_asked_to_end_when_the_job_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    starts = f"from benchmarks.claims import parallelism; parallelism._answer([{sys.executable!r}, '-c', {PROGRAM!r}, {str(note)!r}])"
    job = subprocess.Popen([sys.executable, "-c", starts], cwd=ROOT)
    try:
        _within(20, lambda: note.exists() and note.read_text() == "begun")
    finally:
        job.kill()
        job.wait()
    assert _within(20, lambda: note.read_text() == "asked")


def _within(seconds: float, found: Callable[[], Any]) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def _child_of(pid: int) -> int | None:
    children = [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return int(children[0]) if children else None


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def _is_asleep(pid: int) -> bool:
    """Waiting for its request: it has asked to die with its parent by then. An interpreter that starts hardly sleeps."""
    states = []
    for _ in range(5):
        states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        time.sleep(0.1)
    return states == ["S"] * 5


@pytest.mark.parametrize(
    ("name", "settings", "memory"),
    [("weighed", {"is_weighed": True}, "65536"), ("other", {}, None)],
)
def test_only_what_is_weighed_gives_memory_back_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, bool], memory: str | None
) -> None:
    given: list[dict[str, str]] = []

    real, answering = subprocess.Popen, [sys.executable, "-c", "print('{}')"]

    def start(command: list[str], *, env: dict[str, str], **other: Any) -> subprocess.Popen[str]:
        given.append(env)
        return real(answering, env=env, **other)

    monkeypatch.setattr(subprocess, "Popen", start)
    bench.one(Job("training", {}, **settings), name)
    assert given[0].get("MALLOC_TRIM_THRESHOLD_") == memory
    assert given[0]["OMP_NUM_THREADS"] == "1"


FILES = {
    "benchmarks/claims/__init__.py": "",
    "benchmarks/claims/job.py": "import json\n",
    "benchmarks/claims/training.py": "from model import layers\nfrom benchmarks.claims.job import main\n",
    "benchmarks/claims/other.py": "import model.native\n",
    "benchmarks/report.py": "x = 1\n",
    "model/__init__.py": "",
    "model/layers/__init__.py": "from . import norm\nfrom ..config import Config\n",
    "model/layers/norm.py": "def f():\n    import model.late\n    import benchmarks.report\n",
    "model/layers/unused.py": "x = 1\n",
    "model/config.py": "import model.config  # a circle\n",
    "model/late.py": "",
    "model/native.py": "",
    "model/csrc/kernel.cpp": "int x;\n",
}
RUN_BY_TRAINING = {
    "benchmarks/claims/job.py",
    "benchmarks/claims/training.py",
    "model/__init__.py",
    "model/layers/__init__.py",
    "model/layers/norm.py",
    "model/config.py",
    "model/late.py",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_result_depends_on_what_its_job_imports_and_on_nothing_else(tree: Path, name: str) -> None:
    before = source_sha256("training", tree)
    (tree / name).write_text(FILES[name] + "# changed\n")
    assert (source_sha256("training", tree) != before) == (
        name in {*RUN_BY_TRAINING, "benchmarks/claims/__init__.py"}
    )


def test_kernels_belong_to_what_loads_them(tree: Path) -> None:
    before = source_sha256("other", tree)
    (tree / "model" / "csrc" / "kernel.cpp").write_text("int y;\n")
    assert source_sha256("other", tree) != before


def test_a_moved_module_is_another_source(tree: Path) -> None:
    before = source_sha256("training", tree)
    (tree / "model" / "late.py").rename(tree / "model" / "late")
    assert source_sha256("training", tree) != before


def test_what_is_imported_in_this_tree_is_found() -> None:
    found = {str(file.relative_to(ROOT)) for file in source_files(("benchmarks.claims.training",))}
    assert {"model/transformer.py", "model/layers/moe/layer.py", "model/distill/objective.py"} <= found
    assert not any(name.startswith("model/serving/") for name in found)


def test_every_file_that_is_no_python_belongs_to_a_module() -> None:
    others = [file for file in (ROOT / "model").rglob("*") if file.suffix in SUFFIXES]
    folders = [ROOT / folder for folder in READS.values()]
    assert [file for file in others if not any(file.is_relative_to(folder) for folder in folders)] == []
