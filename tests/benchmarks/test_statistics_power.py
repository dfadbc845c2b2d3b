"""Seeded simulations of the judge, small enough for every run; `python -m benchmarks.power` does the large ones."""

import json
import math

import numpy as np
import pytest

from benchmarks import power
from benchmarks.noise_models import MODELS
from benchmarks.report import Report, Row
from benchmarks.statistics.gate import GateOutcome

RUNS = power.QUICK_SIMULATIONS


@pytest.mark.parametrize("name", MODELS)
def test_noise_models_have_median_zero_and_deviation_one(name: str) -> None:
    values = MODELS[name](np.random.default_rng(1), 4_000, 24)
    assert values.shape == (4_000, 24)
    assert abs(float(np.median(values))) < 0.02
    assert 0.75 < float(np.std(values)) < 1.25


@pytest.mark.parametrize("cell", power.null_cells(), ids=lambda cell: cell.name)
def test_patches_without_effect_do_not_pass(cell: power.Cell) -> None:
    passes = sum(d.outcome is GateOutcome.GAIN for d in power.decisions(cell, RUNS, 11))
    # 2,000 runs cannot show 1 in 1,000; more than 6 would contradict it (probability 0.5 % at the limit).
    assert passes <= 6


def test_a_gate_without_its_allowance_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same simulation finds a lucky build when the bound is taken against bare zero."""
    monkeypatch.setattr("benchmarks.statistics.gate.GatePlan.allowance_log", 0.0)
    cell = next(
        cell for cell in power.null_cells() if cell.name.startswith("lucky build") and cell.sd == 0.01
    )
    assert sum(d.outcome is GateOutcome.GAIN for d in power.decisions(cell, RUNS, 11)) > 6


@pytest.mark.parametrize(("effect", "share"), [(0.02, 0.80), (0.05, 0.95), (0.20, 0.95)])
@pytest.mark.parametrize(
    "name", ["gaussian", "heavy tails (t3)", "skewed up", "skewed down", "slow and fast modes"]
)
@pytest.mark.parametrize("sd", [0.01, 0.02])
def test_true_gains_are_found(name: str, sd: float, effect: float, share: float) -> None:
    cell = power.Cell(name, MODELS[name], sd)
    found = sum(d.outcome is GateOutcome.GAIN for d in power.decisions(cell, 500, 12, effect)) / 500
    assert found >= share


@pytest.mark.parametrize("sd", [0.01, 0.02])
def test_no_ops_and_regressions_end_early(sd: float) -> None:
    for effect, outcome in ((0.0, GateOutcome.NO_GAIN), (-0.05, GateOutcome.REGRESSION)):
        taken = list(power.decisions(power.Cell("", MODELS["gaussian"], sd), 500, 13, effect))
        assert sum(d.outcome is outcome for d in taken) >= 495
        assert sorted(d.look for d in taken)[474] <= 24


def test_clopper_pearson_matches_tables() -> None:
    assert power.binomial_upper(0, 2_000) == pytest.approx(1 - 0.05 ** (1 / 2_000), rel=1e-6)
    assert power.binomial_upper(1, 10) == pytest.approx(0.39416, abs=1e-4)
    assert power.binomial_lower(1, 10) == pytest.approx(0.00512, abs=1e-4)
    assert power.binomial_upper(10, 10) == 1.0
    assert power.binomial_lower(0, 10) == 0.0


def test_simulations_are_the_same_on_every_run() -> None:
    cell = power.null_cells()[0]
    first, second = ([d.look for d in power.decisions(cell, 200, 3)] for _ in range(2))
    assert first == second


def test_report_shape(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a", 1.5, "s", "<= 2 s", True, "timed"), Row("b", None, "", None, None, "not measured")]
    Report.here("python -m benchmarks.x", rows).show(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"command", "date", "commit", "machine", "rows"}
    assert document["rows"][0] == {
        "name": "a",
        "value": 1.5,
        "unit": "s",
        "target": "<= 2 s",
        "holds": True,
        "how": "timed",
    }
    Report.here("python -m benchmarks.x", rows).show(as_json=False)
    table = capsys.readouterr().out
    assert "1.5 s" in table
    assert "yes" in table
    assert "python -m benchmarks.x" in table


def test_the_command_prints_one_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "QUICK_SIMULATIONS", 60)
    monkeypatch.setattr("sys.argv", ["power", "--quick", "--json"])
    power.main()
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "python -m benchmarks.power --quick"
    assert len(document["rows"]) > 100
    assert all(row["value"] is not None and math.isfinite(row["value"]) for row in document["rows"])
