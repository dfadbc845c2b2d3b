"""Runs a timing process for base, then for the candidate, and believes what it says. Shared by the in-process harnesses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path("/work/run")
WORKER = str(Path(__file__).with_name("worker.py"))
TIMEOUT_S = 120
SMALLEST_S = 1e-9
FLAGS = ("-B",)  # with site packages, as Python usually starts


def run_worker(tree: str, style: str, check: str) -> str:
    """Everything it printed; its folder is left as it is."""
    FOLDER.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *FLAGS, WORKER, tree, style, check],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tree}:{os.environ['PYTHONPATH']}"},
    )
    return done.stdout.decode(errors="replace")


def run_program(program: str, *arguments: str) -> str:
    """Run a harness's timing process and return what it printed."""
    FOLDER.mkdir(exist_ok=True)
    command = [sys.executable, *FLAGS, program, *arguments]
    return subprocess.run(
        command, cwd=FOLDER, stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=False, text=True
    ).stdout


def results(printed: str) -> list[dict[str, Any]]:
    """Every line that is a result."""
    found = []
    for line in printed.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and {"seconds", "correct"} <= set(value):
            found.append(value)
    return found


def report(base: dict[str, Any] | None, candidate: dict[str, Any] | None) -> None:
    """The last line of a harness. A candidate that failed, or is wrong as far as is known, has a ratio of 0."""
    if base is None or candidate is None or not candidate["correct"]:
        say(0.0, f"refused: {candidate}")
        return
    say(
        base["seconds"] / max(candidate["seconds"], SMALLEST_S), f"{candidate['seconds'] * 1e6:.1f} us a call"
    )


def score_program(program: str, measure: Callable[[str, str], None]) -> None:
    """A harness that is its own timing process: that is what it is with a tree and a mode (save, compare) as arguments."""
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        base = last(results(run_program(program, "/base", "save")))
        report(base, last(results(run_program(program, "/candidate", "compare"))))


def print_result(seconds: float, *, correct: bool) -> None:
    """Print the result in the form that `results` finds."""
    print("\n" + json.dumps({"seconds": seconds, "correct": correct}), flush=True)


def say(ratio: float, note: str) -> None:
    print("\n" + json.dumps({"ratio": min(ratio, 1e9), "note": note}), flush=True)


def last(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    return found[-1] if found else None
