"""The measuring of an engine: the fit, the real run's requests, and a real engine that answers at given times."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity.calibrate import (
    ANSWER,
    BATCHES,
    PROMPTS,
    REAL_LOAD,
    SLOTS,
    STEP_TOKENS,
    fit_rates,
    real_requests,
)
from model.presets import PRESETS

pytestmark = pytest.mark.slow

Answers = list[list[dict[str, float]]]


def measured(step: float, sequence: float, token: float, pair: float, slow: float = 1.0) -> tuple:
    """What an engine with these times would give; every second repeat takes ``slow`` times as long."""
    singles = [{"at_s": 0.0, "prompt_tokens": n, "output_tokens": 1} for n in PROMPTS * 2]
    first: Answers = []
    for number, single in enumerate(singles):
        n = single["prompt_tokens"]
        seconds = n * token + n * n / 2 * pair + -(-n // STEP_TOKENS) * step
        first.append(
            [{"first_s": seconds * (slow if number >= len(PROMPTS) else 1), "last_s": 0, "tokens": 1}]
        )
    batches = [[{}] * n for n in BATCHES * 2]
    answers: Answers = []
    for number, batch in enumerate(batches):
        seconds = (ANSWER - 1) * (step + len(batch) * sequence) * (slow if number >= len(BATCHES) else 1)
        answers.append([{"first_s": 1.0, "last_s": 1.0 + seconds, "tokens": ANSWER}] * len(batch))
    return singles, first, batches, answers


@given(
    step=st.floats(1e-4, 1e-2),
    sequence=st.floats(1e-4, 1e-2),
    token=st.floats(1e-4, 1e-3),
    pair=st.floats(1e-8, 1e-6),
    slow=st.sampled_from([1.0, 1.7]),
)
def test_the_fit_finds_the_times_that_an_engine_has(
    step: float, sequence: float, token: float, pair: float, slow: float
) -> None:
    rates, fit = fit_rates(*measured(step, sequence, token, pair, slow))
    assert rates["step_s"] == pytest.approx(step, rel=1e-3)
    assert rates["sequence_s"] == pytest.approx(sequence, rel=1e-3)
    assert rates["prompt_token_s"] == pytest.approx(token, rel=1e-2)
    assert rates["prompt_pair_s"] == pytest.approx(pair, rel=1e-2, abs=1e-10)
    assert rates["step_tokens"] == STEP_TOKENS
    assert "within 0 %" in fit


def test_no_time_is_negative() -> None:
    singles, first, batches, answers = measured(0.004, 0.002, 0.0005, 1e-7)
    for number, one in enumerate(answers):  # more answers at once take less: only a noisy machine says so
        one[0] = {**one[0], "last_s": 1.0 + 0.9 / (1 + len(batches[number]))}
    rates, _ = fit_rates(singles, first, batches, answers)
    assert min(rates.values()) >= 0


def test_the_real_run_loads_the_device_as_said() -> None:
    rates = {"step_s": 0.004, "sequence_s": 0.002, "prompt_token_s": 0.0005, "prompt_pair_s": 1e-7}
    run = real_requests(rates, 2_000)
    full_s = (0.004 + SLOTS * 0.002) / SLOTS
    busy_s = sum(
        r["prompt_tokens"] * 0.0005 + r["prompt_tokens"] ** 2 / 2 * 1e-7 + r["output_tokens"] * full_s
        for r in run
    )
    assert busy_s / run[-1]["at_s"] == pytest.approx(REAL_LOAD, rel=0.06)
    assert run == real_requests(rates, 2_000)
    assert [r["at_s"] for r in run] == sorted(r["at_s"] for r in run)


def test_a_real_engine_answers_each_request_at_its_time_with_all_its_tokens() -> None:
    run = [{"at_s": 0.3 * n, "prompt_tokens": 20 + n, "output_tokens": 1 + 4 * n} for n in range(4)]
    request = {
        "model": PRESETS["tiny"].to_dict(),
        "core": min(os.sched_getaffinity(0)),
        "slots": 2,
        "step_tokens": 64,
        "runs": [run[:1], run],
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.capacity.engine_run"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, answers = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert [one["tokens"] for one in answers] == [1, 5, 9, 13]
    for sent, one in zip(run, answers, strict=True):
        assert sent["at_s"] < one["first_s"] <= one["last_s"]
