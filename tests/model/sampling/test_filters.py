"""Filters keep exactly the tokens that sorting the whole vocabulary would keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.sampling import SamplingSettings
from model.sampling.filters import kept_tokens, likeliest, nucleus, top_k

logit = st.one_of(st.floats(-200, 0, width=32), st.sampled_from([0.0, -1.0, -1.5, float("-inf")]))
logits = st.lists(logit, min_size=1, max_size=60).map(
    lambda values: np.array([0.0, *values], np.float32)  # relative to their maximum
)


def sorted_ids(relative_V: NDArray[np.float32]) -> list[int]:
    return sorted(range(relative_V.size), key=lambda token: (-relative_V[token], token))


@given(logits, st.integers(1, 80))
def test_top_k_keeps_the_largest_and_of_even_ones_the_lowest_ids(
    relative_V: NDArray[np.float32], count: int
) -> None:
    expected = sorted_ids(relative_V)[:count]
    assert sorted(top_k(relative_V, count).tolist()) == sorted(expected)
    assert likeliest(relative_V, count).tolist() == expected


@given(logits, st.floats(0.001, 0.999))
def test_the_nucleus_is_the_smallest_likeliest_set_that_reaches_the_mass(
    relative_V: NDArray[np.float32], mass: float
) -> None:
    ids = nucleus(relative_V, mass).tolist()
    order = sorted_ids(relative_V)
    assert sorted(ids) == sorted(order[: len(ids)])
    weights_V = np.exp(relative_V.astype(np.float64))
    total = weights_V.sum()
    slack = 1e-5 * total  # weights are rounded to fp32
    assert weights_V[ids].sum() >= mass * total - slack
    assert weights_V[order[: len(ids) - 1]].sum() < mass * total + slack


@given(logits, st.floats(0.001, 1.0))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(
    relative_V: NDArray[np.float32], share: float
) -> None:
    ids = kept_tokens(relative_V, SamplingSettings(min_p=share))
    assert ids is not None and 0 in ids
    weights_V = np.exp(relative_V.astype(np.float64))
    is_kept = np.zeros(relative_V.size, bool)
    is_kept[ids] = True
    assert (weights_V[is_kept] >= share * (1 - 1e-5)).all()
    assert (weights_V[~is_kept] <= share * (1 + 1e-5)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.001, 1.0, 5.0, 60.0]), st.integers(1, 3000))
def test_large_vocabularies_of_any_spread_are_cut_the_same(seed: int, spread: float, count: int) -> None:
    random = np.random.default_rng(seed)
    relative_V = (random.standard_normal(3000) * spread).astype(np.float32)
    relative_V -= relative_V.max()
    assert likeliest(relative_V, count).tolist() == sorted_ids(relative_V)[:count]
    ids = nucleus(relative_V, 0.9)
    assert sorted(ids.tolist()) == sorted(sorted_ids(relative_V)[: ids.size])


def test_all_filters_together_apply_in_order() -> None:
    relative_V = np.log(np.array([0.4, 0.3, 0.2, 0.06, 0.04], np.float32) / 0.4)
    four_left = SamplingSettings(top_k=4, top_p=0.92)  # of 0.96: 0.883 is not reached before the third
    assert sorted(kept_tokens(relative_V, four_left).tolist()) == [0, 1, 2]  # type: ignore[union-attr]
    with_min_p = SamplingSettings(top_k=4, top_p=0.92, min_p=0.6)
    assert sorted(kept_tokens(relative_V, with_min_p).tolist()) == [0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("neutral", [{}, {"top_k": 5}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0}])
def test_neutral_settings_keep_all_without_work(neutral: dict[str, float]) -> None:
    assert kept_tokens(np.zeros(5, np.float32), SamplingSettings(**neutral)) is None  # type: ignore[arg-type]
