"""Schedules as pure functions, and the recipe that names them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import ConfigError
from model.training.config.recipe import Recipe
from model.training.optim.schedule import shape, warmup

SHARES = st.floats(0, 1)


def test_warm_up_rises_linearly_and_stays() -> None:
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == 1.0


@given(progress=SHARES, final=SHARES, decay=st.floats(0.01, 1))
@pytest.mark.parametrize("kind", ["constant", "cosine", "wsd"])
def test_every_shape_stays_between_its_end_and_one(
    kind: str, progress: float, final: float, decay: float
) -> None:
    value = shape(kind, progress, decay_share=decay, final_share=final)  # type: ignore[arg-type]
    assert final - 1e-12 <= value <= 1 + 1e-12


@given(first=SHARES, second=SHARES)
@pytest.mark.parametrize("kind", ["constant", "cosine", "wsd"])
def test_no_shape_ever_rises(kind: str, first: float, second: float) -> None:
    early, late = sorted((first, second))
    values = [shape(kind, p, decay_share=0.3, final_share=0.1) for p in (early, late)]  # type: ignore[arg-type]
    assert values[0] >= values[1] - 1e-12


def test_cosine_is_half_way_in_the_middle_and_ends_where_it_should() -> None:
    at = [shape("cosine", p, decay_share=1, final_share=0.2) for p in (0, 0.25, 0.5, 1, 7)]
    assert at == pytest.approx([1.0, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2, 0.2])


def test_wsd_is_stable_and_then_falls_as_one_minus_a_square_root() -> None:
    at = [shape("wsd", p, decay_share=0.25, final_share=0.0) for p in (0, 0.5, 0.75, 0.8125, 1)]
    assert at == pytest.approx([1, 1, 1, 0.5, 0])


def test_the_stable_part_does_not_know_how_long_the_run_is() -> None:
    """What makes a run prolongable: with twice the budget the same updates have the same rates."""
    recipe = Recipe(schedule="wsd", decay_share=0.25, warmup_steps=3)
    short = [recipe.learning_rate_at(step, step / 100) for step in range(75)]
    assert short == [recipe.learning_rate_at(step, step / 200) for step in range(75)]


def test_the_recipe_multiplies_warm_up_and_shape() -> None:
    recipe = Recipe(learning_rate=2.0, warmup_steps=10, schedule="cosine")
    assert recipe.learning_rate_at(4, 0.5) == pytest.approx(2.0 * 0.5 * 0.5)


def test_a_schedule_that_needs_the_run_s_length_says_so() -> None:
    with pytest.raises(ConfigError, match=r"'wsd' needs .* progress"):
        Recipe(schedule="wsd").learning_rate_at(0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "sgd"),
        ("schedule", "linear"),
        ("decay_share", 0.0),
        ("decay_share", 1.5),
        ("final_share", -0.1),
        ("ema_decay", 1.0),
        ("ema_decay", 0.0),
        ("momentum", 1.0),
        ("ahead_weight", -1.0),
        ("weight_decay", math.nan),
        ("eps", 0.0),
        ("eps", 1e-60),
    ],
)
def test_a_recipe_that_cannot_train_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"Recipe.{field}"):
        Recipe(**{field: value})  # type: ignore[arg-type]
