"""Measure this stack's engine for simulations, and how far a simulation of a short real run is from it.

`python -m benchmarks.capacity.calibrate --output FILE` starts the engine on one core with a model of random weights, times
prompts of several lengths and answers in batches, and fits the times of a step. Then it serves requests that arrive at
random, as a node does, and simulates the same ones. The machine should do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np

from benchmarks.capacity.simulated import simulated
from benchmarks.commands import check_output, command_line, ends_plainly
from benchmarks.pairs.cores import choose_cores
from benchmarks.peers.models import QWEN3_MOE_186M
from benchmarks.report import MeasuringFailed, Report, Row, say
from model.command_errors import CommandParser

SLOTS, STEP_TOKENS = 4, 256
PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 3, 4)
ANSWER, REPEATS = 96, 3
REAL_REQUESTS, REAL_LOAD = 80, 0.6
SEED = 20_261_130
TIMEOUT_S = 1_800.0
ROOT = Path(__file__).resolve().parents[2]

Requests = list[dict[str, Any]]
Answers = list[list[dict[str, float]]]


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m benchmarks.capacity.calibrate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, required=True, help="file for the calibration, JSON")
    parser.add_argument("--quick", action="store_true", help="each time once, and a shorter real run")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args(arguments)
    try:
        check_output(options.output)
    except OSError as error:
        parser.error(str(error))
    report = Report.here(command_line(parser.prog, arguments), [])
    document, rows = _calibrate(report, quick=options.quick)
    options.output.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    dataclasses.replace(report, rows=tuple(rows)).show(as_json=options.json)
    return 0


def _calibrate(report: Report, *, quick: bool) -> tuple[dict[str, Any], list[Row]]:
    repeats = 1 if quick else REPEATS
    say("timing prompts and answers ...")
    singles: Requests = [{"at_s": 0.0, "prompt_tokens": n, "output_tokens": 1} for n in PROMPTS * repeats]
    batches = [[{"at_s": 0.0, "prompt_tokens": 16, "output_tokens": ANSWER}] * n for n in BATCHES * repeats]
    warm_up = [{"at_s": 0.0, "prompt_tokens": 512, "output_tokens": 16}] * SLOTS
    _, *answers = _engine([warm_up, *([single] for single in singles), *batches])
    rates, fit = fit_rates(singles, answers[: len(singles)], batches, answers[len(singles) :])
    document: dict[str, Any] = {
        "rates": rates,
        "engine": f"{QWEN3_MOE_186M.name}, bf16, one core, {SLOTS} answers at once",
        "machine": report.machine,
        "date": report.date,
        "commit": report.commit,
        "command": report.command,
        "error": {},
    }
    run = real_requests(rates, 24 if quick else REAL_REQUESTS)
    say(f"serving {len(run)} requests in {run[-1]['at_s']:.0f} s ...")
    real = _engine([warm_up, run])[1]
    document["error"], compared = _compare(document, run, real)
    rows = [
        Row("prompt token", round(1e6 * rates["prompt_token_s"], 1), "us", None, None, fit),
        Row("pair of prompt tokens", round(1e9 * rates["prompt_pair_s"], 2), "ns", None, None, fit),
        Row("step", round(1e3 * rates["step_s"], 3), "ms", None, None, fit),
        Row("answer in a step", round(1e3 * rates["sequence_s"], 3), "ms", None, None, fit),
    ]
    return document, rows + compared


def fit_rates(
    singles: Requests, single_answers: Answers, batches: Sequence[Requests], batch_answers: Answers
) -> tuple[dict[str, float], str]:
    """Times of a step that explain the measured ones best, relative to them. The shortest of repeats counts: others only add.

    Returns the rates and a line that says how far the fit is from what was measured.
    """
    token_s: dict[int, list[float]] = {}
    for batch, found in zip(batches, batch_answers, strict=True):
        begin = max(one["first_s"] for one in found)
        end = min(one["last_s"] for one in found)
        token_s.setdefault(len(batch), []).append((end - begin) / (ANSWER - 1))
    sizes = sorted(token_s)
    tokens = np.array([min(token_s[n]) for n in sizes])
    step_s, sequence_s = _least_squares(np.array([[1.0, n] for n in sizes]), tokens)
    first_s: dict[int, list[float]] = {}
    for single, found in zip(singles, single_answers, strict=True):
        first_s.setdefault(single["prompt_tokens"], []).append(found[0]["first_s"])
    lengths = sorted(first_s)
    prompts = np.array([min(first_s[n]) for n in lengths])
    steps_s = np.array([-(-n // STEP_TOKENS) * step_s for n in lengths])
    columns = np.array([[n, n * n / 2] for n in lengths])
    token, pair = _least_squares(columns, np.maximum(prompts - steps_s, 1e-6), weights=prompts)
    wrong = [
        abs(columns @ [token, pair] + steps_s - prompts) / prompts,
        abs(step_s + sequence_s * np.array(sizes) - tokens) / tokens,
    ]
    rates = {
        "step_s": step_s,
        "sequence_s": sequence_s,
        "prompt_token_s": token,
        "prompt_pair_s": pair,
        "step_tokens": STEP_TOKENS,
    }
    fit = (
        f"fitted to prompts of {lengths[0]} to {lengths[-1]} tokens within {100 * wrong[0].max():.0f} % "
        f"and to {sizes[0]} to {sizes[-1]} answers at once within {100 * wrong[1].max():.0f} %"
    )
    return rates, fit


def _least_squares(columns: Any, values: Any, weights: Any = None) -> tuple[float, float]:
    """Two factors, neither negative, of least relative error."""
    scale = (values if weights is None else weights)[:, None]
    found = np.linalg.lstsq(columns / scale, values / scale[:, 0], rcond=None)[0]
    if found.min() < 0:
        kept = int(found.argmax())
        alone = np.linalg.lstsq((columns / scale)[:, [kept]], values / scale[:, 0], rcond=None)[0][0]
        found = np.array([alone if n == kept else 0.0 for n in range(2)])
    return float(found[0]), float(found[1])


def real_requests(rates: Mapping[str, float], n: int) -> Requests:
    """Requests at random times, about REAL_LOAD of what the device can do, with lengths as in conversations. Seeded."""
    chance = random.Random(SEED)
    lengths = [
        (
            min(4000, max(16, round(chance.lognormvariate(6.6, 0.8)))),
            min(600, max(2, round(chance.lognormvariate(4.4, 0.8)))),
        )
        for _ in range(n)
    ]
    full_s = (rates["step_s"] + SLOTS * rates["sequence_s"]) / SLOTS
    busy_s = sum(
        prompt * rates["prompt_token_s"] + prompt**2 / 2 * rates["prompt_pair_s"] + output * full_s
        for prompt, output in lengths
    )
    at_s, requests = 0.0, []
    for prompt, output in lengths:
        at_s += chance.expovariate(REAL_LOAD * n / busy_s)
        requests.append({"at_s": round(at_s, 3), "prompt_tokens": prompt, "output_tokens": output})
    return requests


def _compare(
    document: Mapping[str, Any], run: Requests, real: Sequence[Mapping[str, float]]
) -> tuple[dict[str, float], list[Row]]:
    """By how many per cent the simulation is above the real run, and the rows that say so."""
    with tempfile.TemporaryDirectory(prefix="gainshare-calibrate-") as folder:
        trace, calibration = Path(folder) / "run.csv", Path(folder) / "calibration.json"
        lines = ["TIMESTAMP,ContextTokens,GeneratedTokens\n", *map(_azure, run)]
        trace.write_text("".join(lines), encoding="utf-8")
        calibration.write_text(json.dumps(document), encoding="utf-8")
        found = simulated(
            [str(trace), "--nodes", "1", "--slots", str(SLOTS), "--calibration", str(calibration)]
        )
    simulated_values = {row.name: float(row.value) for row in found if isinstance(row.value, int | float)}
    first = [one["first_s"] - request["at_s"] for one, request in zip(real, run, strict=True)]
    token = [
        1e3 * (one["last_s"] - one["first_s"]) / (one["tokens"] - 1) for one in real if one["tokens"] > 1
    ]
    error, rows = {}, []
    for name, values, unit in (("first token", first, "s"), ("time for each token", token, "ms")):
        for share, at in (("median", 49), ("p99", 98)):
            measured = quantiles(values, n=100, method="inclusive")[at]
            expected = simulated_values[f"{name}, {share}"]
            error[f"{name} {share}"] = round(100 * (expected / measured - 1), 1)
            how = f"simulated {expected:.3g} {unit}, measured {measured:.3g} {unit}, {len(values)} requests on one node"
            rows.append(Row(f"simulated {name}, {share}", error[f"{name} {share}"], "% off", None, None, how))
    return error, rows


def _azure(request: Mapping[str, Any]) -> str:
    """A line of Azure's format."""
    moment = datetime(2026, 1, 1) + timedelta(seconds=request["at_s"])  # noqa: DTZ001  # the format has no zone
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}0,{request['prompt_tokens']},{request['output_tokens']}\n"


def _engine(runs: Sequence[Requests]) -> Answers:
    """Answers of all runs, one after the other in one process on one core. Raises MeasuringFailed."""
    config = dataclasses.replace(QWEN3_MOE_186M, max_context=8192)
    request = {
        "model": config.to_dict(),
        "core": choose_cores().measuring,
        "slots": SLOTS,
        "step_tokens": STEP_TOKENS,
        "runs": list(runs),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.capacity.engine_run"],
        input=json.dumps(request),
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode != 0:
        raise MeasuringFailed(
            f"the engine ended with status {done.returncode}: {done.stderr[-1500:].strip()}"
        )
    answers: Answers = json.loads(done.stdout.splitlines()[-1])["runs"]
    return answers


if __name__ == "__main__":
    sys.exit(main())
