"""Claims about training measured from the first job to the last row, at a size that proves nothing but that all fits.

Jobs run in this process instead of their own; their settings and answers go through JSON as there.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.claims import bench as bench_module
from benchmarks.claims import (
    corpus,
    curriculum,
    distillation,
    eight_bit,
    growth,
    sharing,
    sparse_moe,
    training,
)
from benchmarks.claims.bench import Bench, Job
from benchmarks.claims.claim import Claim, Measured
from benchmarks.claims.decoders import decoder
from benchmarks.claims.tuning import MOST_ADDED, TUNING_SEED
from benchmarks.report import Row
from model.config import MoEConfig
from tests.benchmarks.claims.claim_text import KINDS, text_corpus

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {"d_model": 16, "n_layers": 2, "d_ff": 32, "n_heads": 2}
RATES, ONE_RATE, SEEDS = (4e-3, 1e-2), (5e-3,), (1, 2)
SMALL: dict[Claim, Any] = {
    sharing.CLAIM: sharing.Settings(16, 2, 32, 700, RATES, SEEDS),
    distillation.CLAIM: distillation.Settings(
        {"d_model": 8, "n_layers": 1, "d_ff": 16, "n_heads": 2}, TINY, 700, 1_000, 5e-3, ONE_RATE, SEEDS
    ),
    curriculum.CLAIM: curriculum.Settings(TINY, 1_500, 128, (0.5, 1.0), ONE_RATE, SEEDS),
    eight_bit.CLAIM: eight_bit.Settings(16, 2, 32, 16, 700, RATES, SEEDS),
    growth.CLAIM: growth.Settings(TINY, 1_500, 700, ONE_RATE, SEEDS),
}


class InThisProcess:
    """Stands for the processes of jobs, and counts them by kind."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def __call__(self, job: Job, made: Path, _: object) -> dict[str, Any]:
        self.jobs.append(job)
        work = importlib.import_module(f"benchmarks.claims.{job.kind}").work
        answer: dict[str, Any] = json.loads(json.dumps(work(json.loads(json.dumps(job.settings)), made)))
        return answer


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[InThisProcess]:
    here = InThisProcess()
    monkeypatch.setattr(bench_module, "_ask", here)
    monkeypatch.setattr(training, "SIZES", {"quick": {"batch_tokens": 128, "scored_tokens": 128}})
    for module in (sharing, distillation, curriculum, eight_bit, growth):
        monkeypatch.setattr(module, "SIZES", training.SIZES)
        monkeypatch.setattr(module, "SETTINGS", {"quick": SMALL[module.CLAIM]})
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield here
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of results, so that the text is built once."""
    return tmp_path_factory.mktemp("claims")


@pytest.fixture
def bench(output: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(corpus, "select", lambda names, known: [text_corpus(kind) for kind in KINDS])
    monkeypatch.setattr(corpus, "VOCABULARY", {"quick": 300})
    return Bench(output, n_at_once=1, say=lambda text: None)


def measured(claim: Claim, bench: Bench) -> Measured:
    found = claim.measure(bench, "quick")
    assert found.rows
    for row in found.rows:
        assert row.value is not None and row.target and row.holds in (True, False), row
        assert "quick scale" in row.how
    return found


LONG = (sharing.CLAIM,)  # three sides; the others stay with the quick tests


@pytest.mark.parametrize(
    "claim",
    [pytest.param(claim, marks=[pytest.mark.long] if claim in LONG else []) for claim in SMALL],
    ids=lambda claim: claim.name,
)
def test_a_claim_is_measured_to_its_last_row(claim: Claim, bench: Bench, jobs: InThisProcess) -> None:
    found = measured(claim, bench)
    reported: list[Row] = [row for row in found.rows if "learning rates" in row.how]
    assert reported, "no row says how rates were chosen"
    settings = [job.settings for job in jobs.jobs if job.kind == "training"]
    assert {TUNING_SEED, *SMALL[claim].seeds} <= {of_job["seed"] for of_job in settings}
    tuned = {of_job["learning_rate"] for of_job in settings if of_job["seed"] == TUNING_SEED}
    rates = set(SMALL[claim].rates)
    assert rates <= tuned and len(tuned) <= (1 if len(rates) == 1 else len(rates) + 2 * MOST_ADDED)
    for figure in found.figures:
        assert all(len(curve.xs) == len(curve.ys) > 1 for curve in figure.curves)
    n_before = len(jobs.jobs)
    assert claim.measure(bench, "quick").rows == found.rows  # all of it was kept
    assert len(jobs.jobs) == n_before


def test_the_sparse_model_s_times_become_rows_and_a_plot(
    bench: Bench, jobs: InThisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    moe = MoEConfig(16, d_expert=16, n_experts=40, top_k=4, n_shared=2)
    small = decoder("sparse", 64, d_model=16, n_layers=1, d_ff=32, n_heads=2, moe=moe)
    monkeypatch.setattr(sparse_moe, "sparse_model", lambda: small)
    monkeypatch.setattr(sparse_moe, "BATCH_SIZES", (1, 16))
    monkeypatch.setattr(sparse_moe, "DTYPES", {"quick": ("float32", "bfloat16")})
    monkeypatch.setattr(sparse_moe, "CALLS", {"quick": {1: 4, 16: 2}})
    found = sparse_moe.CLAIM.measure(bench, "quick")
    times = [row for row in found.rows if "time per token" in row.name]
    assert [row.name.rpartition("T = ")[2] for row in times] == [
        "1, float32",
        "16, float32",
        "1, bfloat16",
        "16, bfloat16",
    ]
    assert all(row.holds is None and isinstance(row.value, float) for row in times)
    assert ["4 interleaved" in row.how for row in times] == [True, False, True, False]
    assert jobs.jobs[-1].is_alone
    [figure] = found.figures
    assert figure.is_x_log and [curve.xs for curve in figure.curves] == [[1.0, 16.0]] * 2
