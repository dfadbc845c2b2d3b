"""What rows say for given figures of rates, architecture and schooling: no torch work, no processes."""

from __future__ import annotations

import math

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims import curriculum, distillation, sharing, sparse_moe
from benchmarks.claims.corpus import VOCABULARY
from benchmarks.claims.decoders import decoder
from benchmarks.claims.spread import Spread
from benchmarks.claims.training import loss_of
from benchmarks.claims.tuning import MOST_ADDED, Tuned, best_rate, grid_text, next_rate
from benchmarks.report import MeasuringFailed, Row
from tests.benchmarks.claims.claim_results import RATE, compared, result

pytestmark = pytest.mark.slow

ALL = ("general", "domain", "instruction")


def test_spread_gives_mean_and_range() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.low, spread.high, spread.n) == (3.0, 1.0, 6.0, 3)
    assert spread.text(1, "%") == "3.0 % (1.0..6.0 over 3 seeds)"
    assert spread.error == pytest.approx(
        (7 / 3) ** 0.5
    )  # a variance of 7 among single values, of a third in their mean


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


def test_of_sharings_that_save_enough_the_one_of_least_loss_is_reported() -> None:
    for small_loss, large_loss, chosen, saved in ((2.01, 2.0, "large", -35.0), (2.0, 2.01, "small", -50.0)):
        row = sharing_row(small_loss, large_loss)
        assert (row.value, row.holds) == (saved, True)
        assert row.how.startswith(chosen)


def test_a_sharing_that_saves_too_little_is_passed_over() -> None:
    shared = {"enough": [result(2.01, stored_bytes=250)], "little": [result(1.9, stored_bytes=300)]}
    (row,) = sharing.decide(compared({"plain": [result(2.0)], **shared}), SHARING, "quick")
    assert (row.value, row.holds) == (-37.5, True)
    assert row.how.startswith("enough")


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
    deciding = {
        "plain": result(2.0),
        "lucky": result(3.0, stored_bytes=100),
        "sound": result(2.0, stored_bytes=250),
    }
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


def test_a_missed_curriculum_says_what_its_order_is_worth_and_what_fewer_tokens_cost() -> None:
    """Half a nat a doubling: 40 % fewer tokens are 0.737 doublings."""
    for row in curriculum_rows(2.1, {0.25: 3.0, 1.0: 2.0}) + curriculum_rows(1.9, {0.25: 3.0, 1.0: 2.0}):
        assert "40% fewer tokens cost 0.368" in row.how
    assert "the order changes the loss by -0.100 nats" in curriculum_rows(2.1, {0.25: 3.0, 1.0: 2.0})[0].how
    assert "the order changes" not in curriculum_rows(2.5, {0.25: 3.0, 1.0: 2.0})[0].how


def test_a_curriculum_that_never_gets_there_says_so() -> None:
    for row in curriculum_rows(1.0, {0.25: 3.0, 1.0: 2.0}):
        assert (row.value, row.holds) == ("not reached", False)
        assert "1 of 1 seeds" in row.how


def test_the_smallest_budget_is_a_bound_and_the_row_says_so() -> None:
    row = curriculum_rows(3.5, {0.25: 3.0, 1.0: 2.0})[0]
    assert row.value == -75.0
    assert "at least that much" in row.how


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
