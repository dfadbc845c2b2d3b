"""Sampling keeps what its settings say, repeats with a seed, and refuses impossible settings by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from model.sampling import Chosen, Sampler, SamplingError, SamplingSettings
from tests.model.sampling.distributions import chi_square_deviations

pytestmark = pytest.mark.slow

PROBABILITIES = (0.5, 0.3, 0.15, 0.05)
LOGITS = np.log(PROBABILITIES, dtype=np.float32)


def draws(settings: SamplingSettings, n: int = 2000) -> list[int]:
    sampler = Sampler(settings)
    return [sampler(LOGITS).token for _ in range(n)]


def test_temperature_zero_is_greedy() -> None:
    assert set(draws(SamplingSettings(temperature=0), 20)) == {0}


def test_greedy_takes_the_lowest_id_of_even_tokens() -> None:
    assert Sampler(SamplingSettings(temperature=0))(np.array([1.0, 3.0, 3.0], np.float32)).token == 1


@pytest.mark.parametrize(
    ("settings", "probabilities"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, [p**2 for p in PROBABILITIES]),
        ({"temperature": 2.0}, [p**0.5 for p in PROBABILITIES]),
        ({"top_k": 2}, [0.5, 0.3, 0, 0]),
        ({"top_k": 9}, PROBABILITIES),
        ({"top_p": 0.79}, [0.5, 0.3, 0, 0]),
        ({"top_p": 0.81}, [0.5, 0.3, 0.15, 0]),
        ({"min_p": 0.2}, [0.5, 0.3, 0.15, 0]),
        ({"min_p": 0.4}, [0.5, 0.3, 0, 0]),
        ({"top_k": 3, "top_p": 0.83}, [0.5, 0.3, 0, 0]),  # 0.8 / 0.95 is 0.842: top-p is of what top-k left
        ({"top_k": 3, "top_p": 0.85}, [0.5, 0.3, 0.15, 0]),
        ({"temperature": 2.0, "min_p": 0.5}, [0.5**0.5, 0.3**0.5, 0.15**0.5, 0]),  # after temperature
        ({"logit_bias": {3: math.log(10)}}, [0.5, 0.3, 0.15, 0.5]),
    ],
)
def test_draws_follow_the_settings(settings: dict[str, Any], probabilities: list[float]) -> None:
    assert chi_square_deviations(draws(SamplingSettings(seed=1, **settings)), probabilities) < 5


def test_the_test_of_distributions_notices_a_wrong_one() -> None:
    assert chi_square_deviations(draws(SamplingSettings(seed=1)), (0.45, 0.35, 0.15, 0.05)) > 5


def test_extremes_leave_the_likeliest_token() -> None:
    for settings in ({"top_p": 0.01}, {"top_k": 1}, {"min_p": 1.0}, {"temperature": 1e-9}):
        assert set(draws(SamplingSettings(seed=3, **settings), 50)) == {0}  # type: ignore[arg-type]


def test_a_seed_repeats_and_another_differs() -> None:
    first = draws(SamplingSettings(seed=5), 50)
    assert first == draws(SamplingSettings(seed=5), 50) != draws(SamplingSettings(seed=6), 50)


def test_without_a_seed_two_samplers_differ() -> None:
    assert draws(SamplingSettings(), 100) != draws(SamplingSettings(), 100)


def test_a_token_depends_on_its_index_and_not_on_what_was_called_before() -> None:
    plain = draws(SamplingSettings(seed=8), 6)
    late = Sampler(SamplingSettings(seed=8))
    late.n_drawn = 4  # as one that took up an answer there would
    assert [late(LOGITS).token for _ in range(2)] == plain[4:]


def test_nothing_of_the_logits_is_changed() -> None:
    logits = LOGITS.copy()
    settings = SamplingSettings(
        seed=1, repetition_penalty=2.0, frequency_penalty=1.0, logit_bias={0: -5.0}, top_p=0.9, logprobs=2
    )
    sampler = Sampler(settings, prompt=(1, 2))
    for _ in range(5):
        sampler(logits)
    assert np.array_equal(logits, LOGITS)


def test_logprobs_are_the_models_own() -> None:
    settings = SamplingSettings(seed=1, temperature=0.3, top_k=1, logit_bias={3: 100.0}, logprobs=2)
    chosen = Sampler(settings)(LOGITS + 7)
    assert chosen.token == 3
    assert chosen.logprob == pytest.approx(math.log(0.05), abs=1e-5)
    assert [token for token, _ in chosen.top] == [0, 1]
    assert [value for _, value in chosen.top] == pytest.approx([math.log(0.5), math.log(0.3)], abs=1e-5)


def test_logprobs_are_given_only_where_asked_for() -> None:
    assert Sampler(SamplingSettings(temperature=0))(LOGITS) == Chosen(0)
    chosen = Sampler(SamplingSettings(temperature=0, logprobs=0))(LOGITS)
    assert chosen.logprob == pytest.approx(math.log(0.5), abs=1e-5)
    assert chosen.top == ()


def test_more_logprobs_than_tokens_give_all_tokens() -> None:
    chosen = Sampler(SamplingSettings(temperature=0, logprobs=20))(LOGITS)
    assert [token for token, _ in chosen.top] == [0, 1, 2, 3]
    assert sum(math.exp(value) for _, value in chosen.top) == pytest.approx(1, abs=1e-6)


def test_a_ruled_out_token_has_no_finite_logprob_and_is_never_drawn() -> None:
    logits = np.array([0.0, -math.inf, 0.0], np.float32)
    sampler = Sampler(SamplingSettings(seed=1, logprobs=3))
    chosen = [sampler(logits) for _ in range(100)]
    assert {c.token for c in chosen} == {0, 2}
    assert chosen[0].top[-1] == (1, -math.inf)


def test_answers_of_one_prompt_differ_and_repeat() -> None:
    def answers() -> list[list[int]]:
        first = Sampler(SamplingSettings(seed=4))
        forks = [first.fork(i) for i in range(3)]
        return [[sampler(LOGITS).token for _ in range(30)] for sampler in forks]

    found = answers()
    assert found == answers()
    assert found[0] == draws(SamplingSettings(seed=4), 30)  # the first of n is what n = 1 gives
    assert len({tuple(answer) for answer in found}) == 3


def test_forks_keep_their_own_past() -> None:
    first = Sampler(SamplingSettings(temperature=0, presence_penalty=2.0))
    assert first(LOGITS).token == 0
    fork = first.fork(1)
    assert (first(LOGITS).token, first(LOGITS).token) == (1, 2)
    assert (fork(LOGITS).token, fork(LOGITS).token) == (1, 2)


def test_forks_without_a_seed_differ_too() -> None:
    first = Sampler(SamplingSettings())
    tokens = [[fork(LOGITS).token for _ in range(60)] for fork in (first.fork(0), first.fork(1))]
    assert tokens[0] != tokens[1]


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": math.inf}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: 101.0}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, Any], parameter: str) -> None:
    with pytest.raises(SamplingError, match=parameter) as refusal:
        SamplingSettings(**settings)
    assert refusal.value.parameter == parameter


def test_a_bias_on_a_token_that_does_not_exist_is_refused() -> None:
    settings = SamplingSettings(logit_bias={3: 1.0, 4: 1.0})
    settings.check_vocabulary(5)
    with pytest.raises(SamplingError, match="token 4"):
        settings.check_vocabulary(4)


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [1.0, math.inf], [-math.inf, -math.inf], [1.0, math.nan]])
def test_broken_logits_are_an_error_not_a_token(bad: list[float]) -> None:
    for settings in (SamplingSettings(temperature=0), SamplingSettings(), SamplingSettings(top_p=0.5)):
        with pytest.raises(FloatingPointError):
            Sampler(settings)(np.array(bad, np.float32))
