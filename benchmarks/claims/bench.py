"""Runs jobs in fresh processes, several at once where nothing is timed, and keeps their results.

A result is in `<output>/results/<key>.json`; the key is the sha256 of the job's kind and settings and of the source
that it depends on, so that equal work is done once, a run that was killed continues, and changed code is measured again.
What a job leaves behind for others (weights, data) is in `<output>/made/<key>`. Does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.claims.source import ROOT, source_sha256
from benchmarks.pairs.cores import choose_cores
from benchmarks.report import MeasuringFailed, say

Result = dict[str, Any]

SHOWN_OF_LOG = 2_000  # characters of a failed job's output
# glibc gives freed memory back at once, so that a process's size is what it uses; slow, since pages come again each time.
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Job:
    """Work for one process: `kind` is a module of this package with a function `work(settings, made)`.

    `is_alone`: nothing else of this run works meanwhile and the process stays on one core, because it is timed.
    `is_weighed`: its size is measured, so that freed memory must not stay in it.
    """

    kind: str
    settings: dict[str, Any]
    is_alone: bool = False
    is_weighed: bool = False
    timeout_s: float = 3600.0

    def key(self, source: str) -> str:
        content = json.dumps([self.kind, self.settings, source], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass
class Bench:
    """Store of results, and the processes that make them."""

    output: Path
    n_at_once: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    say: Callable[[str], None] = field(default_factory=lambda: say)
    device_models: tuple[Path, ...] = ()  # measured elsewhere, for placement
    traces: tuple[Path, ...] = ()  # of requests, and rates
    sources: dict[str, set[str]] = field(default_factory=dict)  # that results came from, by kind of job
    _running: set[subprocess.Popen[str]] = field(default_factory=set)

    @property
    def has_changed(self) -> bool:
        """True if results of one kind came from different code."""
        return any(len(found) > 1 for found in self.sources.values())

    def run(self, jobs: Sequence[Job], what: str) -> list[Result]:
        """Results in the jobs' order. Raises MeasuringFailed where one does not end well; what runs meanwhile is kept.

        Ctrl-C ends what runs.
        """
        sources = {kind: source_sha256(kind) for kind in {job.kind for job in jobs}}
        keys = [job.key(sources[job.kind]) for job in jobs]
        kept = {key: result for key in keys if (result := self._kept(key)) is not None}
        waiting = {
            key: job for key, job in zip(keys, jobs, strict=True) if key not in kept
        }  # equal jobs are one
        self.say(f"{what}: {len(waiting)} to do, {len(set(keys)) - len(waiting)} kept")
        begun = time.monotonic()
        for group, at_once in (
            ([key for key, job in waiting.items() if not job.is_alone], self.n_at_once),
            ([key for key, job in waiting.items() if job.is_alone], 1),
        ):
            with ThreadPoolExecutor(max_workers=at_once) as pool:
                futures = {key: pool.submit(self._do, key, waiting[key]) for key in group}
                try:
                    for done, (key, future) in enumerate(futures.items(), 1):
                        kept[key] = future.result()
                        self.say(f"{what}: {done}/{len(group)} after {time.monotonic() - begun:.0f} s")
                except BaseException as error:
                    pool.shutdown(wait=False, cancel_futures=True)
                    if not isinstance(error, MeasuringFailed):
                        self._end_running()
                    raise
        for kind, source in sources.items():
            self.sources.setdefault(kind, set()).add(source)
        return [kept[key] for key in keys]

    def one(self, job: Job, what: str) -> Result:
        return self.run([job], what)[0]

    def _end_running(self) -> None:
        for process in tuple(self._running):
            process.kill()

    def made(self, result: Result) -> Path:
        """The folder of what a job left behind; jobs find those of others next to their own, by key."""
        return self.output / "made" / str(result["key"])

    def _file(self, key: str) -> Path:
        return self.output / "results" / f"{key}.json"

    def _kept(self, key: str) -> Result | None:
        try:
            result: Result = json.loads(self._file(key).read_text(encoding="utf-8"))
            is_whole = not result["has_made"] or self.made(result).is_dir()
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise MeasuringFailed(f"{self._file(key)} is damaged ({error}): delete it") from error
        return result if is_whole else None

    def _do(self, key: str, job: Job) -> Result:
        made = self.output / "made" / key
        begun = time.monotonic()
        answer = _ask(job, made, self._running)
        seconds = time.monotonic() - begun
        result = {**answer, "key": key, "seconds": seconds, "has_made": made.is_dir()}
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
        partial.replace(file)
        return result


def _ask(job: Job, made: Path, running: set[subprocess.Popen[str]]) -> Result:
    """Run a job's process and return its last line of standard output. It is in `running` meanwhile."""
    request = {
        "kind": job.kind,
        "settings": job.settings,
        "made": str(made.resolve()),
        "core": choose_cores().measuring if job.is_alone else None,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.claims.job"],
        env={
            **os.environ,
            **(EXACT_MEMORY if job.is_weighed else {}),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        },
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running.add(process)
    with process:
        try:
            said, log = process.communicate(json.dumps(request), timeout=job.timeout_s)
        except subprocess.TimeoutExpired:
            raise MeasuringFailed(f"a job of {job.kind} took longer than {job.timeout_s:.0f} s") from None
        finally:
            process.kill()
            running.discard(process)
    if process.returncode != 0:
        tail = log[-SHOWN_OF_LOG:].strip()
        raise MeasuringFailed(f"a job of {job.kind} ended with status {process.returncode}: {tail}")
    answer: Result = json.loads(said.splitlines()[-1])
    return answer
