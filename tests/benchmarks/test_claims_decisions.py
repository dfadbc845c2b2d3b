"""What rows say for given figures: no torch work, no processes."""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims import (
    curriculum,
    distillation,
    eight_bit,
    growth,
    padding,
    parallelism,
    placement,
    recompute,
    sharing,
    sparse_moe,
)
from benchmarks.claims.corpus import VOCABULARY
from benchmarks.claims.decoders import decoder
from benchmarks.claims.spread import Spread
from benchmarks.claims.training import loss_of
from benchmarks.claims.tuning import MOST_ADDED, Tuned, best_rate, grid_text, next_rate
from benchmarks.report import MeasuringFailed, Row
from model.parallel.device_model import DeviceModel
from tests.benchmarks.claim_results import RATE, compared, result

ALL = ("general", "domain", "instruction")


def test_spread_gives_mean_and_range() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.low, spread.high, spread.n) == (3.0, 1.0, 6.0, 3)
    assert spread.text(1, "%") == "3.0 % (1.0..6.0 over 3 seeds)"


def test_one_seed_is_said_to_be_one() -> None:
    assert Spread.of([2.0]).text(1) == "2.0 (no spread: one of the seeds alone)"


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


def test_the_rate_of_the_least_loss_is_chosen() -> None:
    assert best_rate({4e-3: 2.5, 1e-3: 3.0, 2e-3: 2.0}) == Tuned(2e-3, (1e-3, 2e-3, 4e-3))
    assert not best_rate({1e-3: 3.0, 2e-3: 2.0, 4e-3: 2.5}).is_at_edge


def test_a_rate_at_the_edge_of_the_grid_says_so() -> None:
    tuned = best_rate({1e-3: 3.0, 2e-3: 2.0})
    assert tuned.is_at_edge
    assert "plain 0.002 of 0.001/0.002 (edge of the grid)" in grid_text({"plain": tuned})


def test_a_diverged_run_is_never_chosen() -> None:
    assert best_rate({1e-3: 3.0, 1e-2: math.nan, 1e-1: math.inf}).rate == 1e-3
    with pytest.raises(MeasuringFailed, match="diverged"):
        best_rate({1e-2: math.nan})


@pytest.mark.parametrize(
    ("losses", "beyond"),
    [
        ({1e-3: 3.0, 2e-3: 2.0}, 4e-3),
        ({1e-3: 2.0, 2e-3: 3.0}, 5e-4),
        ({1e-3: 3.0, 2e-3: 2.0, 4e-3: 2.5}, None),  # inside
        ({1e-3: 4.0, 2e-3: 3.0, 4e-3: 2.5, 8e-3: 2.0}, None),  # grown enough
        ({1e-3: math.inf, 2e-3: math.inf}, 5e-4),
        ({1e-3: 2.0}, None),
    ],
)
def test_a_grid_grows_beyond_the_edge_where_its_best_lies(
    losses: dict[float, float], beyond: float | None
) -> None:
    assert next_rate(losses, 2) == beyond


@hypothesis.settings(deadline=None)
@given(best=st.floats(1e-6, 1.0), ratio=st.floats(1.5, 4.0))
def test_a_growing_grid_comes_nearer_to_the_best_rate_and_ends(best: float, ratio: float) -> None:
    losses = {rate: abs(math.log(rate / best)) for rate in (4e-3, float(f"{4e-3 * ratio:.2g}"))}
    first = min(losses.values())
    while (rate := next_rate(losses, 2)) is not None:
        assert rate not in losses
        losses[rate] = abs(math.log(rate / best))
    assert min(losses.values()) <= first
    assert len(losses) <= 2 + MOST_ADDED
    assert not best_rate(losses).is_at_edge or len(losses) == 2 + MOST_ADDED


# Sharing.

SHARING = sharing.Settings(16, 4, 32, 64, (1e-3, 2e-3), (1, 2))


def sharing_row(small_loss: float, large_loss: float) -> Row:
    plain = [result(2.0), result(2.0)]
    small = [result(small_loss, stored_bytes=200)] * 2
    large = [result(large_loss, stored_bytes=260)] * 2
    (row,) = sharing.decide(compared({"plain": plain, "small": small, "large": large}), SHARING, "quick")
    return row


def test_the_smallest_sharing_of_equal_loss_is_reported() -> None:
    row = sharing_row(2.01, 2.0)
    assert (row.value, row.holds) == (-50.0, True)
    assert row.how.startswith("small")


def test_a_sharing_beyond_the_margin_is_passed_over() -> None:
    row = sharing_row(2.1, 2.015)
    assert (row.value, row.holds) == (-35.0, True)
    assert row.how.startswith("large")
    assert "small: -50 % bytes at +5.00 % loss" in row.how


def test_sharing_that_costs_loss_misses() -> None:
    row = sharing_row(2.2, 2.1)
    assert row.holds is False
    assert row.how.startswith("large")
    assert "not equal" in row.how


def test_sharing_that_saves_too_little_misses() -> None:
    plain, shared = [result(2.0)], [result(2.0, stored_bytes=300)]
    (row,) = sharing.decide(compared({"plain": plain, "shared": shared}), SHARING, "quick")
    assert (row.value, row.holds) == (-25.0, False)


def test_the_reported_seeds_do_not_choose_the_sharing() -> None:
    results = {
        "plain": [result(2.0)],
        "lucky": [result(1.5, stored_bytes=100)],
        "sound": [result(2.0, stored_bytes=250)],
    }
    deciding = {"plain": result(2.0), "lucky": result(3.0, stored_bytes=100), "sound": result(2.0)}
    (row,) = sharing.decide(compared(results, deciding), SHARING, "quick")
    assert row.how.startswith("sound")


def test_shared_shapes_store_less_and_share_what_their_names_say() -> None:
    shapes = sharing.models(sharing.SETTINGS["quick"], 1024)
    plain = shapes.pop("plain")
    assert len(shapes) >= 2
    for shape in shapes.values():
        assert shape.total_parameters < 0.7 * plain.total_parameters
        assert shape.n_kv_heads == 1
        assert shape.attention_owners == (0, 0, 2, 2, 4, 4)
    assert {shape.ffn_owners for shape in shapes.values()} == {(0, 0, 2, 2, 4, 4), (0, 1, 1, 3, 3, 5)}


# Distillation.


def distillation_row(taught: list[float], alone: list[float]) -> Row:
    sides = {
        distillation.TAUGHT: [result(loss) for loss in taught],
        distillation.ALONE: [result(loss) for loss in alone],
    }
    settings = distillation.SETTINGS["quick"]
    (row,) = distillation.decide(compared(sides), result(1.0, parameters=1000), settings, "quick")
    return row


def test_a_better_student_with_every_seed_holds() -> None:
    row = distillation_row([1.9, 1.8], [2.0, 2.0])
    assert (row.value, row.holds) == (-7.5, True)
    assert "10.0x" in row.how


def test_one_seed_without_a_gain_misses() -> None:
    assert distillation_row([1.5, 2.01], [2.0, 2.0]).holds is False


def test_the_student_has_a_tenth_of_the_parameters() -> None:
    for scale, settings in distillation.SETTINGS.items():
        student, teacher = (
            decoder("any", VOCABULARY[scale], **shape) for shape in (settings.student, settings.teacher)
        )
        assert 8 < teacher.total_parameters / student.total_parameters < 12


# Curriculum.


def test_the_budget_is_read_off_between_two_that_were_tried() -> None:
    found = curriculum.budget_reaching(2.5, {0.25: 3.0, 1.0: 2.0})
    assert found == pytest.approx(0.5)  # half way on logarithmic budgets


def test_nothing_is_read_off_below_the_smallest_budget() -> None:
    assert curriculum.budget_reaching(3.5, {0.4: 3.0, 1.0: 2.0}) == 0.4


def test_a_loss_that_is_never_reached_has_no_budget() -> None:
    assert curriculum.budget_reaching(1.0, {0.4: 3.0, 1.0: 2.0}) is None


@given(
    st.lists(st.floats(0.5, 5.0), min_size=2, max_size=5),
    st.floats(0.5, 5.0),
)
def test_a_budget_lies_within_those_tried_and_a_harder_target_needs_no_less(
    losses: list[float], target: float
) -> None:
    budgets = {0.2 * (index + 1): loss for index, loss in enumerate(losses)}
    found = curriculum.budget_reaching(target, budgets)
    if found is None:
        assert min(losses) > target
        return
    assert 0.2 - 1e-9 <= found <= max(budgets) + 1e-9
    harder = curriculum.budget_reaching(target - 0.1, budgets)
    assert harder is None or harder >= found - 1e-9


def curriculum_rows(mixed: float, staged: dict[float, float]) -> list[Row]:
    rates = {curriculum.STAGED: RATE, curriculum.MIXED: RATE}
    by_budget = {budget: [result(loss, kinds=ALL)] for budget, loss in staged.items()}
    return curriculum.decide(
        [result(mixed, kinds=ALL)], by_budget, rates, curriculum.SETTINGS["quick"], "quick"
    )


def test_a_curriculum_that_needs_half_the_tokens_holds() -> None:
    rows = curriculum_rows(2.5, {0.25: 3.0, 1.0: 2.0})
    assert [(row.value, row.holds) for row in rows] == [(-50.0, True)] * len(curriculum.TARGETS)


def test_a_curriculum_that_saves_little_misses() -> None:
    assert all(row.holds is False for row in curriculum_rows(2.1, {0.25: 3.0, 1.0: 2.0}))


def test_a_curriculum_that_never_gets_there_says_so() -> None:
    for row in curriculum_rows(1.0, {0.25: 3.0, 1.0: 2.0}):
        assert (row.value, row.holds) == ("not reached", False)
        assert "1 of 1 seeds" in row.how


def test_the_smallest_budget_is_a_bound_and_the_row_says_so() -> None:
    row = curriculum_rows(3.5, {0.25: 3.0, 1.0: 2.0})[0]
    assert row.value == -75.0
    assert "at least that much" in row.how


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
    assert gain.holds is True
    assert "100.0 % of the other's" in gain.how


def test_a_jump_of_one_seed_misses_even_where_the_mean_is_none() -> None:
    jump, _ = growth_rows(grown(2.0, 2.01, 1.8, 1.9), grown(2.0, 1.99, 1.8, 1.9))
    assert jump.value == 0.0
    assert jump.holds is False


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
        "dp": 8,
        "memory_bytes": 60 * 2**30,
        "zero": 1,
        "checkpointing": "full",
    }
    best |= {"step_s": 9.0, "bubble_share": 0.1, "mfu": 0.4}
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


# Sparse MoE.


def test_sparse_and_dense_have_equally_many_parameters() -> None:
    sparse = sparse_moe.sparse_model()
    dense = sparse_moe.dense_of_equal_size(sparse)
    assert dense.total_parameters == pytest.approx(sparse.total_parameters, rel=1e-3)
    assert dense.n_moe_layers == 0


def test_size_rows_hold_at_the_claims_own_shape() -> None:
    active, flops = sparse_moe.size_rows(sparse_moe.sparse_model())
    assert active.holds is True
    assert 15 <= float(str(active.value)) <= 20
    assert flops.holds is True
    assert float(str(flops.value)) <= -83


def test_times_are_medians_of_pairs_without_a_target() -> None:
    (row,) = sparse_moe.time_rows({"float32": {"16": [[30, 100], [40, 100], [900, 100]]}}, "quick")
    assert (row.value, row.holds, row.target) == (-60.0, None, None)


def test_loss_weighs_kinds_alike() -> None:
    found = result(1.0)
    found["points"][0]["scores"]["domain"]["loss"] = 3.0
    assert loss_of(found) == 2.0
    assert loss_of(found, ("domain",)) == 3.0
