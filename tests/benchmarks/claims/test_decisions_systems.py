"""What rows say for given figures of systems claims, from padding to placement: no torch work, no processes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims import eight_bit, growth, padding, parallelism, placement, recompute, sparse_moe
from benchmarks.claims.corpus import Corpora
from benchmarks.report import MeasuringFailed, Row
from model.config import ModelConfig
from model.parallel.placement.device_model import DeviceModel
from model.training.report.flops import training_cost
from tests.benchmarks.claims.claim_results import RATE, compared, result

# Padding.


@given(st.floats(0.01, 0.98), st.integers(1, 10**6))
def test_padding_tokens_follow_from_shares(before: float, tokens: int) -> None:
    after = before / 2
    padded = [share * tokens / (1 - share) for share in (before, after)]
    assert padding.change_of_tokens(before, after) == pytest.approx(padded[1] / padded[0] - 1)


def test_no_padding_left_is_all_of_it_gone() -> None:
    assert padding.change_of_tokens(0.4, 0.0) == -1.0


def test_a_baseline_without_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        padding.change_of_tokens(0.0, 0.0)


def test_padding_rows_are_of_all_kinds_first() -> None:
    shares = [{"padded": 0.5, "bucketed": 0.3, "packed": 0.01}] * 3
    found = {
        "shares": {"general": shares, "all kinds": shares},
        "streamed": {"general": {"packed": 0.02, "bucketed": 0.3}},
        "documents": {"general": 10, "all kinds": 10},
        "median_length": {"general": 100.0, "all kinds": 100.0},
    }
    rows = padding.decide(found, "quick")
    assert [row.name for row in rows][:2] == [
        "packing: padding tokens, all kinds",
        "packing: padding tokens, general",
    ]
    assert [row.holds for row in rows] == [True, True, False, False]
    assert "the stream's own batches hold 2.00 %" in rows[1].how


def test_the_plot_of_padding_goes_from_short_documents_to_long_ones() -> None:
    kinds = {"long": 900.0, "short": 30.0}
    found = {
        "shares": {kind: [{"padded": 0.5, "bucketed": 0.25, "packed": 0.125}] for kind in kinds},
        "streamed": {kind: {} for kind in kinds},
        "median_length": kinds,
    }
    curves = padding._figure(found).curves
    assert [(curve.name, curve.xs, curve.ys) for curve in curves] == [
        ("shuffled batches", [30.0, 900.0], [50.0, 50.0]),
        ("packing", [30.0, 900.0], [12.5, 12.5]),
        ("dynamic batching", [30.0, 900.0], [25.0, 25.0]),
    ]


# Gradient checkpointing.


def recompute_rows(full: int) -> list[Row]:
    results = {
        mode: [{"process_bytes": size, "saved_bytes": size // 2}]
        for mode, size in (("none", 1000), ("selective", 600), ("full", full))
    }
    return recompute.decide(results, recompute.SETTINGS["quick"], "quick")


def test_full_checkpointing_holds_and_selective_is_reported() -> None:
    rows = recompute_rows(200)  # hooks do not see what selective checkpointing keeps: one row of it
    assert [(row.value, row.holds) for row in rows] == [
        (-80.0, True),
        (-80.0, True),
        (-40.0, None),
    ]


def test_checkpointing_that_saves_too_little_misses() -> None:
    assert [row.holds for row in recompute_rows(400)][:2] == [False, False]


def test_the_plot_of_memory_goes_by_depth() -> None:
    by_depth = {
        4: [{"process_bytes": 1_000_000}, {"process_bytes": 3_000_000}],
        8: [{"process_bytes": 5_000_000}],
    }
    (curve,) = recompute._figure({"none": by_depth}).curves
    assert (curve.xs, curve.ys) == ([4.0, 8.0], [2.0, 5.0])


def test_a_process_that_does_not_grow_cannot_be_judged() -> None:
    results = {mode: [{"process_bytes": 0, "saved_bytes": 5}] for mode in recompute.MODES}
    with pytest.raises(MeasuringFailed, match="cannot be told"):
        recompute.decide(results, recompute.SETTINGS["quick"], "quick")


# 8-bit training.


def eight_bit_row(eight: list[float], full: list[float]) -> Row:
    sides = {
        eight_bit.FULL: [result(2.0, accuracy=accuracy) for accuracy in full],
        eight_bit.EIGHT_BIT: [result(2.0, accuracy=accuracy) for accuracy in eight],
    }
    (row,) = eight_bit.decide(compared(sides), eight_bit.SETTINGS["quick"], "quick")
    return row


def test_accuracy_that_is_kept_holds() -> None:
    row = eight_bit_row([0.398, 0.400], [0.4, 0.4])
    assert (row.value, row.holds) == (99.75, True)
    assert "kept 99.75 % (99.50..100.00 over 2 seeds), standard error 0.25 (" in row.how
    assert "standard error" not in eight_bit_row([0.4], [0.4]).how


def test_accuracy_that_is_lost_misses() -> None:
    assert eight_bit_row([0.39, 0.39], [0.4, 0.4]).holds is False


def test_a_task_that_saturates_shows_nothing() -> None:
    row = eight_bit_row([0.99], [0.99])
    assert row.holds is False
    assert "SATURATES" in row.how


# Growth.


def grown(parent: float, start: float, child: float, scratch: float) -> growth.Trained:
    points = [result(start)["points"][0], result(child)["points"][0]]
    return growth.Trained(result(parent), result(child, points=points), result(scratch, flops=2000))


def growth_rows(*trained: growth.Trained) -> list[Row]:
    rates = {growth.GROWN: RATE, growth.SCRATCH: RATE}
    return growth.decide(trained, rates, growth.SETTINGS["quick"], "quick")


def test_growth_without_a_jump_and_with_a_gain_holds() -> None:
    jump, gain = growth_rows(grown(2.0, 2.0, 1.8, 1.9), grown(2.0, 2.0, 1.7, 1.9))
    assert (jump.value, jump.holds) == (0.0, True)
    assert (gain.value, gain.holds) == (-7.89, True)  # of 5.26 % and 10.53 %
    assert "100.0 % of the other's" in gain.how


def test_a_jump_of_one_seed_misses_even_where_the_mean_is_none() -> None:
    jump, _ = growth_rows(grown(2.0, 2.01, 1.8, 1.9), grown(2.0, 1.99, 1.8, 1.9))
    assert jump.value == 0.0
    assert jump.holds is False


def test_a_child_that_starts_lower_has_jumped_too() -> None:
    jump, _ = growth_rows(grown(2.0, 1.99, 1.8, 1.9))
    assert (jump.value, jump.holds) == (-0.5, False)


def test_both_sides_of_growth_have_equal_compute_and_end_in_one_shape() -> None:
    for scale, settings in growth.SETTINGS.items():
        runs = growth.runs_of(settings, Corpora("data", 1024), scale)
        parent, scratch = (ModelConfig.from_dict(runs[side].model) for side in ("parent", "scratch"))
        grown_flops = (
            training_cost(parent).per_token * settings.parent_tokens
            + training_cost(scratch).per_token * settings.child_tokens
        )
        of_a_token = training_cost(scratch).per_token
        assert abs(grown_flops - of_a_token * runs["scratch"].n_tokens) <= of_a_token / 2
        assert scratch.moe is not None
        assert (scratch.moe.n_experts, scratch.moe.top_k) == (growth.N_EXPERTS, growth.TOP_K)
        assert runs["child"].model == runs["parent"].model and runs["child"].grow is not None
        assert runs["child"].n_tokens == settings.child_tokens


def test_growth_that_loses_with_one_seed_misses() -> None:
    _, gain = growth_rows(grown(2.0, 2.0, 1.8, 1.9), grown(2.0, 2.0, 1.95, 1.9))
    assert gain.holds is False


# Parallelism and planner.


def test_curves_are_equal_within_the_tolerance_only() -> None:
    found = {
        "4": {
            "model": "small-moe",
            "single": [2.0, 1.0],
            "rows": [
                {"mesh": "tp=2", "losses": [2.0, 1.0], "largest_difference": 1e-6},
                {"mesh": "pp=2", "losses": [2.0, 1.1], "largest_difference": 0.1},
            ],
        }
    }
    assert [row.holds for row in parallelism.curve_rows(found, "quick")] == [True, False]


def plan_document(**changes: Any) -> dict[str, Any]:
    best = {
        "pp": 8,
        "tp": 4,
        "ep": 8,
        "etp": 1,
        "dp": 8,
        "memory_bytes": 60 * 2**30,
        "zero": 1,
        "checkpointing": "full",
    }
    best |= {"splits_sequence": True, "step_s": 9.0, "ep_s": 5.5, "bubble_share": 0.1, "mfu": 0.4}
    counted = {"rank": 0, "counted": {"total": 5}, "formula": {"total": 5}}
    return {
        "cluster": {"name": "h100"},
        "parameters": 1e12,
        "n_fitting": 3,
        "rows": [best],
        "verified": [counted],
        "refused": [],
        **changes,
    }


def test_a_plan_that_fits_holds_and_says_that_it_is_computed() -> None:
    fits, counted = parallelism.plan_rows(plan_document())
    assert (fits.value, fits.holds, counted.holds) == (60.0, True, True)
    assert "not measured" in fits.how
    assert "step 9.0 s, 5.5 s of it exchanges between experts" in fits.how
    assert "pp=8 tp=4 ep=8 etp=1 dp=8, the sequence split over tp" in fits.how


def test_shards_of_another_size_miss() -> None:
    other = {"rank": 0, "counted": {"total": 5}, "formula": {"total": 6}}
    assert parallelism.plan_rows(plan_document(verified=[other]))[1].holds is False


def test_shards_that_were_not_counted_are_not_equal() -> None:
    assert parallelism.plan_rows(plan_document(verified=[]))[1].holds is False


def test_no_layout_is_a_miss_with_its_reason() -> None:
    (row,) = parallelism.plan_rows(plan_document(rows=[], refused=[{"example": "too large"}]))
    assert row.holds is False
    assert "too large" in row.how


# Placement.


def device(name: str, kind: str, **rates: float) -> DeviceModel:
    return DeviceModel(
        name=name,
        kind=kind,
        measured_at="2026-11-25",
        dtype="float32",
        memory_bytes=2**36,
        memory_gb_s=100.0,
        link_gb_s=2.0**20,
        link_latency_us=0.0,
        rates={operation: ((1.0, rate),) for operation, rate in rates.items()},  # type: ignore[misc]
    )


CPU = device("processor", "cpu", data=1e5, attention=1e10, dense=1e10, experts=1e10)
GPU = device("accelerator", "cuda", attention=5e10, dense=2e10, experts=2e10)


def test_one_device_claims_nothing() -> None:
    rows = placement.decide(sparse_moe.sparse_model(), [CPU], [], "quick")
    assert [(row.value, row.holds) for row in rows] == [(None, None)] * 3
    assert all("no second device" in row.how for row in rows)


def test_two_devices_are_simulated_and_the_rows_say_so() -> None:
    rows = placement.decide(sparse_moe.sparse_model(), [CPU], [GPU], "quick")
    assert all(row.how.startswith("simulated from measured rates of processor (here") for row in rows)
    assert all("accelerator (elsewhere" in row.how for row in rows)
    assert all(
        isinstance(row.value, float) and row.holds is (row.value >= float(str(row.target)[:-1]))
        for row in rows
    )


def test_devices_measured_in_other_formats_cannot_be_compared() -> None:
    other = DeviceModel(**{**vars_of(GPU), "dtype": "bfloat16"})
    with pytest.raises(MeasuringFailed, match="dtypes"):
        placement.decide(sparse_moe.sparse_model(), [CPU], [other], "quick")


def vars_of(model: DeviceModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}
