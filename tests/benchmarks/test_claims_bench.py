"""Jobs in processes of their own, and what is kept of them."""

from __future__ import annotations

import json
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
from benchmarks.claims.source import ROOT, source_sha256
from benchmarks.report import MeasuringFailed


class Recorded:
    """Stands for the process: answers with the settings' square, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.together = 0
        self.most_together = 0
        self.fails_at: int | None = None
        self.leaves_something = False
        self._lock = threading.Lock()

    def __call__(self, job: Job, made: Path) -> dict[str, Any]:
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
    monkeypatch.setattr(bench_module, "source_sha256", lambda: "source")
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


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, process: Recorded) -> None:
    process.fails_at = 3
    first = Bench(tmp_path, n_at_once=1, say=lambda text: None)
    with pytest.raises(MeasuringFailed, match="no more memory"):
        first.run(jobs(1, 2, 3), "any")
    process.fails_at = None
    second = Bench(tmp_path, n_at_once=1, say=lambda text: None)
    assert [found["square"] for found in second.run(jobs(1, 2, 3), "any")] == [1, 4, 9]
    assert process.asked == [1, 2, 3, 3]


def test_changed_source_is_measured_anew(
    bench: Bench, process: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(jobs(2), "any")
    monkeypatch.setattr(bench_module, "source_sha256", lambda: "other source")
    bench.run(jobs(2), "any")
    assert process.asked == [2, 2]
    assert len(bench.sources) == 2


def test_changed_settings_are_measured_anew(bench: Bench, process: Recorded) -> None:
    bench.run(jobs(2), "any")
    bench.run([Job("training", {"number": 2, "seed": 1})], "any")
    assert process.asked == [2, 2]


def test_a_result_whose_files_are_gone_is_measured_anew(bench: Bench, process: Recorded) -> None:
    process.leaves_something = True
    made = bench.made(bench.one(jobs(2)[0], "any"))
    assert made.is_dir()
    bench.one(jobs(2)[0], "any")
    assert process.asked == [2]
    made.rmdir()
    bench.one(jobs(2)[0], "any")
    assert process.asked == [2, 2]


def test_a_damaged_result_is_named(bench: Bench, process: Recorded) -> None:
    key = bench.one(jobs(2)[0], "any")["key"]
    (bench.output / "results" / f"{key}.json").write_text("{", encoding="utf-8")
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
real = bench.subprocess.run
def waiting(command, **options):
    del options["input"]
    return real(command, stdin=read_end, **options)
bench.subprocess.run = waiting
Bench(Path(sys.argv[1]), n_at_once=1).one(Job("training", {}), "waiting")
"""


def test_a_run_that_is_killed_leaves_no_job_behind(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN_THAT_WAITS, str(tmp_path)], cwd=ROOT)
    try:
        job = _within(20, lambda: _child_of(run.pid))
        _within(20, lambda: "benchmarks.claims.job" in _command(job) and _is_asleep(job))
    finally:
        run.kill()
        run.wait()
    assert _within(5, lambda: not Path(f"/proc/{job}").exists())


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
    "change",
    [
        lambda root: (root / "model" / "a.py").write_text("x = 2\n"),
        lambda root: (root / "model" / "a.py").rename(root / "model" / "b.py"),
        lambda root: (root / "benchmarks" / "claims" / "new.py").write_text(""),
        lambda root: (root / "model" / "kernel.cpp").write_text("int x;\n"),
    ],
    ids=["content", "name", "new file", "kernel"],
)
def test_the_source_is_what_is_in_its_files(tmp_path: Path, change: Callable[[Path], object]) -> None:
    for folder in ("model", "benchmarks/claims"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "model" / "a.py").write_text("x = 1\n")
    before = source_sha256(tmp_path)
    (tmp_path / "model" / "notes.txt").write_text("no code")
    assert source_sha256(tmp_path) == before
    change(tmp_path)
    assert source_sha256(tmp_path) != before
