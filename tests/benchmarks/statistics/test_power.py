"""Seeded simulations of the judge, small enough for every run; `python -m benchmarks.power` does the large ones."""

import json
import math
import time

import numpy as np
import pytest

from benchmarks.judging.noise_models import MODELS, autocorrelated_strongly
from benchmarks.power import batch, tables
from benchmarks.power.__main__ import main
from benchmarks.power.cells import PLAN, Cell, null_cells, submissions
from benchmarks.power.intervals import at_most, binomial_lower, binomial_upper
from benchmarks.power.pay import Pay
from benchmarks.power.strategies import first_success, redraw
from benchmarks.report import Report, Row
from benchmarks.statistics.confirm import ERROR, confirmation_bound
from benchmarks.statistics.earlier import LATER_ERROR
from benchmarks.statistics.gate import GateOutcome, gate_decision
from benchmarks.statistics.guard import GuardOutcome, GuardPlan, guard_decision

pytestmark = pytest.mark.slow

RUNS = 3_000
OUTCOMES = {
    GateOutcome.NO_GAIN: batch.NO_GAIN,
    GateOutcome.GAIN: batch.GAIN,
    GateOutcome.REGRESSION: batch.REGRESSION,
}


@pytest.mark.parametrize("name", MODELS)
def test_noise_models_have_median_zero_and_deviation_one(name: str) -> None:
    values = MODELS[name](np.random.default_rng(1), 4_000, 24)
    assert values.shape == (4_000, 24)
    assert abs(float(np.median(values))) < 0.02
    assert 0.75 < float(np.std(values)) < 1.25


@pytest.mark.parametrize("effect", [-0.03, 0.0, 0.01, 0.02, 0.2])
@pytest.mark.parametrize("name", ["gaussian", "very skewed up", "two equal modes", "throttling in steps"])
def test_the_simulated_gate_is_the_real_one(name: str, effect: float) -> None:
    values = Cell(name, MODELS[name], 0.02).draw(np.random.default_rng(3), 150, PLAN.most_pairs, effect)
    once, again = batch.gate(values, PLAN), batch.gate(values, PLAN, is_continued=True)
    for row, pairs in enumerate(values.tolist()):
        real = gate_decision(pairs, PLAN)
        assert (once.outcome[row], once.look[row], once.estimate[row]) == (
            OUTCOMES[real.outcome],
            real.look,
            real.estimate,
        )
        pooled = gate_decision(pairs, PLAN, earlier_pairs=PLAN.most_pairs)
        assert (again.outcome[row], again.look[row]) == (OUTCOMES[pooled.outcome], pooled.look)


@pytest.mark.parametrize("count", [24, 30, 60])
def test_the_simulated_confirmation_is_the_real_one(count: int) -> None:
    values = 0.02 * autocorrelated_strongly(np.random.default_rng(4), 200, count) + 0.03
    for error in (ERROR, LATER_ERROR):
        bounds = batch.confirm(values, error)
        for row, pairs in enumerate(values.tolist()):
            assert confirmation_bound(pairs, error).bound_log_ppm == math.floor(float(bounds[row]) * 1e6)


def test_the_simulated_guard_rail_is_the_real_one() -> None:
    plan = GuardPlan(0.02)
    values = 0.02 * np.random.default_rng(5).standard_normal((300, plan.most_pairs)) - 0.015
    taken = batch.guard(values, plan)
    for row, pairs in enumerate(values.tolist()):
        real = guard_decision(pairs, plan)
        assert (bool(taken.holds[row]), taken.look[row]) == (real.outcome is GuardOutcome.HOLDS, real.look)


@pytest.mark.parametrize("cell", null_cells(), ids=lambda cell: cell.name)
def test_patches_without_effect_do_not_pass_however_often_submitted(cell: Cell) -> None:
    # 3,000 runs cannot show 1 in 1,000; more than 9 would contradict it (probability 0.1 % at the limit).
    assert submissions(cell, RUNS, 11).passed.sum() <= 9
    again = submissions(cell, RUNS, 11, is_continued=True)
    assert again.passed.sum() <= 9
    assert again.awarded.sum() <= again.passed.sum()


def test_a_gate_without_its_allowance_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same simulation finds a lucky build when the bound is taken against bare zero."""
    monkeypatch.setattr("benchmarks.statistics.gate.GatePlan.allowance_log", 0.0)
    cell = next(cell for cell in null_cells() if cell.name.startswith("lucky build") and cell.sd == 0.01)
    assert submissions(cell, RUNS, 11).passed.sum() > 9


@pytest.mark.parametrize(("effect", "share"), [(0.02, 0.80), (0.05, 0.95), (0.20, 0.95)])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sd", [0.01, 0.02])
def test_true_gains_are_found_and_paid_at_most_what_they_are_worth(
    name: str, sd: float, effect: float, share: float
) -> None:
    taken = submissions(Cell(name, MODELS[name], sd), 2_000, 12, effect)
    error = math.sqrt(share * (1 - share) / 2_000)
    assert taken.passed.mean() >= share - 2 * error  # two equal modes are found 83 times in 100
    assert 0 < taken.paid.mean() <= math.log1p(effect)


@pytest.mark.parametrize("sd", [0.01, 0.02])
def test_no_ops_and_regressions_end_early(sd: float) -> None:
    for effect, outcome in ((0.0, batch.NO_GAIN), (-0.05, batch.REGRESSION)):
        taken = submissions(Cell("", MODELS["gaussian"], sd), 1_000, 13, effect)
        assert (taken.outcome == outcome).mean() >= 0.99
        assert np.quantile(taken.look, 0.95) <= 24


@pytest.mark.parametrize(
    "model", [*MODELS.values(), autocorrelated_strongly], ids=lambda model: model.__name__
)
def test_the_confirmations_bound_is_seldom_too_high(model: object) -> None:
    bounds = batch.confirm(model(np.random.default_rng(6), 6_000, 30))  # type: ignore[operator]  # a noise model
    assert (bounds > 0).mean() <= 0.06  # 5 % and three standard errors


def test_a_bound_that_ignores_neighbours_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.power.batch.bound_rank", lambda count, correlation, error: 11)
    bounds = batch.confirm(MODELS["AR(1) 0.3 of the candidate"](np.random.default_rng(6), 6_000, 30))
    assert (bounds > 0).mean() > 0.08


def test_clopper_pearson_matches_tables() -> None:
    assert binomial_upper(0, 2_000) == pytest.approx(1 - 0.05 ** (1 / 2_000), rel=1e-6)
    assert binomial_upper(1, 10) == pytest.approx(0.39416, abs=1e-4)
    assert binomial_lower(1, 10) == pytest.approx(0.00512, abs=1e-4)
    assert binomial_upper(10, 10) == 1.0
    assert binomial_lower(0, 10) == 0.0


def test_a_rate_that_too_few_runs_show_is_neither_held_nor_missed() -> None:
    assert at_most(0, 100_000, 0.001) is True
    assert at_most(0, 100, 0.001) is None
    assert at_most(50, 100, 0.001) is False


def test_simulations_are_the_same_on_every_run() -> None:
    cell = null_cells()[0]
    first, second = (submissions(cell, 300, 3, 0.02) for _ in range(2))
    assert (first.look == second.look).all() and (first.paid == second.paid).all()


def test_contributors_stop_at_their_first_award() -> None:
    paid = np.array([[0.0, 0.03, 0.09], [0.0, 0.0, 0.0], [0.02, 0.0, 0.5]])
    assert first_success(paid).tolist() == [0.03, 0.0, 0.02]


def test_drawing_again_pays_only_where_a_new_draw_is_as_good() -> None:
    rng = np.random.default_rng(2)
    draws = rng.uniform(0.0, 1.0, (4_000, 3))
    assert redraw(draws).mean() == pytest.approx(0.695, abs=0.01)  # keep above 0.625, then above 0.5
    draws[:, 1:] = 0.0
    assert redraw(draws).mean() == draws[:, 0].mean()


def test_a_ratio_of_expected_pays_has_its_error() -> None:
    ratio = Pay(0.02, 0.001).over(Pay(0.04, 0.002))
    assert (ratio.mean, ratio.error) == (0.5, pytest.approx(0.5 * math.hypot(0.05, 0.05)))
    assert Pay.of(np.array([0.0, 0.1]), times=2).mean == pytest.approx(0.1)


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
    monkeypatch.setattr("benchmarks.power.__main__.QUICK_SIMULATIONS", 400)
    assert main(["--quick", "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["command"] == "python -m benchmarks.power --quick"
    names = [row["name"] for row in document["rows"]]
    assert len(names) == len(set(names)) > 300
    assert all(row["value"] is not None and math.isfinite(row["value"]) for row in document["rows"])
    for part in (
        "false gain at the gate",
        "false award, gate",
        "resubmitted until",
        "share of a true 2%",
        "split into",
    ):
        assert any(part in name for name in names), part
    assert "simulating strategies" in printed.err


def test_copies_and_repaired_regressions_earn_nothing_and_splitting_does_not_pay() -> None:
    from benchmarks.power.strategies import strategy_rows

    rows = {row.name: row for row in strategy_rows(600)}
    nothing = [row for name, row in rows.items() if "copied after its award" in name]
    assert nothing and all(row.value == pytest.approx(0.0, abs=0.02) for row in nothing)
    splits = [row for name, row in rows.items() if "split into" in name]
    assert len(splits) == 32 and all(row.holds for row in splits)
    held_back = [row for name, row in rows.items() if "held back" in name]
    assert held_back and all(row.holds for row in held_back)


def test_the_quick_table_is_quick() -> None:
    started = time.process_time()
    rows = tables.simulated_rows(200)
    assert len(rows) > 300
    assert time.process_time() - started < 25
