"""`python -m benchmarks.figures.experts` at toy sizes: each form is really the one named, and figures come of their own rounds."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from benchmarks.figures import experts as bench
from benchmarks.report import MeasuringFailed, Report
from model import native
from model.layers.moe import experts, experts_fused
from tests.needs_torch import needs_kernels


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "D_MODEL": 32,
        "D_EXPERT": 16,
        "N_EXPERTS": 8,
        "TOP_K": 2,
        "STREAM_BYTES": 1 << 20,
    }.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(experts_fused, "_fast_formats", lambda: 3)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each form computed."""
    count: Counter[str] = Counter()

    def counting(module: object, name: str, form: str) -> None:
        compute = getattr(module, name)

        def counted(*arguments: object, **more: object) -> object:
            count[form] += 1
            return compute(*arguments, **more)

        monkeypatch.setattr(module, name, counted)

    counting(experts, "_one_by_one", "sorted")
    counting(experts, "_grouped", "grouped")
    counting(experts_fused, "apply_experts", "fused")
    return count


@needs_kernels
@pytest.mark.usefixtures("small")
def test_each_form_is_the_one_named(used: Counter[str]) -> None:
    weights = bench.Weights(torch.float32)
    assert weights.forms() == ["floor", "sorted", "grouped", "fused"]
    for form in weights.forms():
        used.clear()
        tokens = bench.Tokens.drawn(4, torch.float32, torch.Generator())
        assert bench._seconds(form, tokens, weights, backward=True) > 0
        assert used == Counter({} if form == "floor" else {form: 1})
    used.clear()
    experts.apply_experts(tokens.x, tokens.weights, tokens.chosen, *weights.stacks)
    assert used == {"fused": 1}  # nothing stays replaced


@needs_kernels
@pytest.mark.usefixtures("small")
def test_all_forms_compute_the_same_and_a_call_leaves_its_own_gradients() -> None:
    weights = bench.Weights(torch.float32)
    tokens = bench.Tokens.drawn(6, torch.float32, torch.Generator())
    answers, gradients = [], []
    for form in ("sorted", "grouped", "fused"):
        bench._seconds(form, tokens, weights, backward=True)
        gradient = weights.stacks[0].grad
        assert gradient is not None
        gradients.append(gradient)
        with bench._only(form):
            answers.append(weights.compute(form, tokens))
    for one, other in ((answers[0], answers[1]), (answers[0], answers[2]), (gradients[0], gradients[2])):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.usefixtures("small")
def test_rows_are_there_for_each_format_direction_size_and_form() -> None:
    rows = bench.measure(seconds=0, tokens=(1, 20))
    cells = [
        f"{direction}, {dtype}, T = {n}"
        for dtype in ("fp32", "bf16")
        for direction in ("forward", "forward and backward")
        for n in (1, 20)
    ]
    expected = {f"{cell}: {form}" for cell in cells for form in ("sorted", "grouped", "fused")}
    expected |= {f"forward, {dtype}, T = 1: fused, weights read" for dtype in ("fp32", "bf16")}
    assert {row.name for row in rows} == expected | {"memory read, one core"}
    assert all(isinstance(row.value, float | int) and row.value >= 0 for row in rows)
    aimed = [row for row in rows if row.target is not None]
    assert {row.name.rpartition(": ")[2] for row in aimed} == {"fused", "fused, weights read"}
    assert all((row.target is None) == (row.holds is None) for row in rows)
    document = json.loads(Report.here("python -m benchmarks.figures.experts", rows).to_json())
    assert len(document["rows"]) == len(rows)


def test_ratios_are_taken_within_rounds() -> None:
    """The second round ran on a machine ten times as slow; that tilts nothing."""
    cell = bench.Cell(1, "fp32", False, {"floor": [1.0, 10.0, 1.1], "fused": [2.0, 20.0, 2.2]}, [4, 4, 4])
    assert cell.ratio("fused", "floor") == pytest.approx(2)


def test_fused_holds_only_where_it_beats_both_of_torch_s_forms() -> None:
    seconds = {"floor": [1.0] * 3, "sorted": [3.0] * 3, "grouped": [2.0] * 3, "fused": [2.5] * 3}
    assert [row.holds for row in bench._rows(bench.Cell(1, "fp32", False, seconds, [4] * 3))] == [
        None,
        None,
        False,
    ]
    seconds["fused"] = [1.5] * 3
    fused = bench._rows(bench.Cell(1, "fp32", False, seconds, [4] * 3))[-1]
    assert fused.holds and fused.value == 1.5 and "3 rounds" in fused.how


def test_without_kernels_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "state", lambda: "no native kernels: install a compiler")
    with pytest.raises(MeasuringFailed, match="install a compiler"):
        bench.measure(seconds=0)
