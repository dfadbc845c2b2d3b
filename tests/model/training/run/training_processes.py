"""Training runs as processes of their own, for tests that kill or stop them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.training.report.log import read_log
from tests.model.training.run.training_runs import run_document, toml

LIMIT_S = 280  # a machine that does other things besides may need it


def run_file(folder: Path, built: Path, name: str = "run", **tables: Any) -> Path:
    sizes = {"sequence_length": 32, "batch_tokens": 128, "prefetch": 2}
    document = run_document(
        folder / name, **{**tables, "data": {"folder": str(built), **sizes, **tables.get("data", {})}}
    )
    file = folder / f"{name}.toml"
    file.write_text(toml(document))
    return file


def start(file: Path, *options: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "model.training", str(file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,  # nothing else runs in this process meanwhile
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()  # no harm to one that has ended
    return process.returncode, out, err


def steps_logged(output: Path) -> list[int]:
    log = output / "log.jsonl"
    return [row["step"] for row in read_log(log, "stepped")] if log.exists() else []


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not any(done >= step for done in steps_logged(output)):
        assert process.poll() is None and time.monotonic() < deadline, ended(process)
        time.sleep(0.01)
