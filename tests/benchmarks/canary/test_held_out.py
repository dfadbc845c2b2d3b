"""Held-out loss: a proper score of the distribution that a node shows before it knows the token."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import pytest

from benchmarks.canary.answers import Answer
from benchmarks.canary.held_out import (
    CONTEXT,
    NoDistribution,
    drawn,
    loss_micro_nats,
    positions,
    vocabulary_size,
)
from benchmarks.canary.order import Plan, Shape
from benchmarks.canary.tokens import tokenizer_of
from benchmarks.canary.work import HELD_OUT_BATCH, HELD_OUT_CALLS, Work
from benchmarks.pairs.seeds import Seeds

TOKENIZER = tokenizer_of(None, "tiny")


def answer(top: Mapping[str, float]) -> Answer:
    return Answer("a", "length", 1, 1, 0, 1, top)


def test_the_loss_is_that_of_the_token_that_followed() -> None:
    shown = answer({"a": math.log(0.5), "b": math.log(0.25)})
    assert loss_micro_nats(shown, "b", 102) == pytest.approx(math.log(4) * 1e6, abs=1)
    rest = math.log(0.25 / 100)
    assert loss_micro_nats(shown, "c", 102) == pytest.approx(-rest * 1e6, abs=1)


def test_no_other_distribution_scores_better_than_the_true_one() -> None:
    """Expected score over the true distribution, against 200 others."""
    true = {"a": 0.6, "b": 0.3, "c": 0.1}

    def expected(shown: Mapping[str, float]) -> float:
        top = answer({token: math.log(value) for token, value in shown.items()})
        return sum(true[token] * loss_micro_nats(top, token, 3) for token in true)

    order = random.Random(1)
    for _ in range(200):
        weights = {token: order.random() + 1e-3 for token in true}
        total = sum(weights.values()) * (1 + order.random())
        assert expected(true) <= expected({token: value / total for token, value in weights.items()}) + 2


@pytest.mark.parametrize(
    "top",
    [
        {},
        {"a": 0.0, "b": 0.0},
        {"a": 0.5},
        {"a": math.nan},
        {"a": -math.inf},
        {str(number): -9.0 for number in range(99)},
    ],
    ids=["none", "more than one", "above one", "not a number", "infinite", "too many"],
)
def test_what_is_no_distribution_is_refused(top: dict[str, float]) -> None:
    with pytest.raises(NoDistribution):
        loss_micro_nats(answer(top), "a", 256)


def test_a_vocabulary_is_what_stands_for_text() -> None:
    assert vocabulary_size(TOKENIZER) == 256


def test_a_place_has_its_context_and_the_token_after_it() -> None:
    found = positions(TOKENIZER)
    assert len(found) > 1_000 and all(len(ids) == CONTEXT and text.isascii() for ids, text in found)
    assert bytes(found[0][0]).startswith(b"The ferry left the harbour")


def test_no_place_is_scored_twice_in_one_canary() -> None:
    plan = Plan((Shape(100, 10),), quality_margin_ppm=10_000)
    work = Work(plan, Seeds(b"s" * 32), TOKENIZER)
    calls = [call for number in range(6) for call in work.held_out(number)]
    asked = [ask.prompt for call in calls for ask in call.asks]
    assert len(asked) == 6 * HELD_OUT_CALLS * HELD_OUT_BATCH and len(set(asked)) > len(asked) * 0.99
    assert all(len(call.targets) == call.batch and call.asks[0].alternatives == 20 for call in calls)


def test_nothing_is_scored_where_answers_must_be_equal() -> None:
    assert list(Work(Plan((Shape(100, 10),)), Seeds(b"s" * 32), TOKENIZER).held_out(0)) == []


def test_a_short_text_gives_what_it_has() -> None:
    found = positions(TOKENIZER)[:20]
    assert len(drawn(found, random.Random(1), 5, 16)) == 16
