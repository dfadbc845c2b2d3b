"""Verification of drafts draws exactly what plain decoding would, and accepts a draft as often as it would be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.sampling import Chosen, Sampler, SamplingSettings
from tests.model.sampling.distributions import chi_square_deviations

pytestmark = pytest.mark.slow

N_TOKENS = 7
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "filtered": {"temperature": 1.3, "top_k": 5, "top_p": 0.9, "min_p": 0.02},
    "penalised": {"repetition_penalty": 1.4, "presence_penalty": 0.7, "frequency_penalty": 0.3},
    "with logprobs": {"logprobs": 3, "logit_bias": {2: 1.5}},
}


def logits_behind(tokens: Sequence[int]) -> NDArray[np.float32]:
    """A model: logits that depend on everything before."""
    return normal(np.random.default_rng(hash(tuple(tokens)) % 2**31), N_TOKENS) * 2


def normal(generator: np.random.Generator, n: int) -> NDArray[np.float32]:
    return generator.standard_normal(n, np.float32)


def decoded(sampler: Sampler, n: int) -> list[Chosen]:
    chosen: list[Chosen] = []
    while len(chosen) < n:
        chosen.append(sampler(logits_behind([c.token for c in chosen])))
    return chosen


def speculated(sampler: Sampler, n: int, drafts: Sequence[Sequence[int]]) -> tuple[list[Chosen], int]:
    """At least n tokens through `verify` with the given drafts in turn, and how many drafts were accepted."""
    chosen: list[Chosen] = []
    accepted = 0
    turn = 0
    while len(chosen) < n:
        draft = list(drafts[turn % len(drafts)])
        past = [c.token for c in chosen]
        rows = [logits_behind(past + draft[:i]) for i in range(len(draft) + 1)]
        found = sampler.verify(np.stack(rows), draft)
        assert [c.token for c in found[:-1]] == draft[: len(found) - 1]
        accepted += len(found) - 1
        chosen += found
        turn += 1
    return chosen, accepted


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.integers(0, 2**63 - 1),
    st.lists(st.lists(st.integers(0, N_TOKENS - 1), max_size=4), min_size=1, max_size=5),
)
def test_any_drafts_leave_the_tokens_of_plain_decoding(kind: str, seed: int, drafts: list[list[int]]) -> None:
    asked = SamplingSettings(seed=seed, **KINDS[kind])
    plain = decoded(Sampler(asked, prompt=(1, 2)), 16)
    found, _ = speculated(Sampler(asked, prompt=(1, 2)), 12, drafts)
    assert found == plain[: len(found)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_drafts_that_are_right_are_all_accepted(kind: str) -> None:
    asked = SamplingSettings(seed=3, **KINDS[kind])
    plain = [c.token for c in decoded(Sampler(asked), 12)]
    found, accepted = speculated(Sampler(asked), 12, [plain[0:3], plain[4:7], plain[8:11]])
    assert [c.token for c in found] == plain
    assert accepted == 9


@pytest.mark.parametrize("draft", range(4))
def test_a_draft_is_accepted_as_often_as_sampling_draws_it(draft: int) -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05], np.float32)
    rows = np.log([probabilities] * 2)
    lengths = [len(Sampler(SamplingSettings(seed=seed)).verify(rows, [draft])) for seed in range(3000)]
    accepted = float(probabilities[draft])
    assert chi_square_deviations([n - 1 for n in lengths], [1 - accepted, accepted]) < 5


def test_speculated_tokens_follow_the_exact_joint_distribution() -> None:
    """Pairs of tokens whose second depends on the first, drawn against drafts, over many seeds."""
    first = np.array([0.6, 0.3, 0.1], np.float32)
    second = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]], np.float32)
    drawn: list[int] = []
    for seed in range(4000):
        sampler = Sampler(SamplingSettings(seed=seed))
        draft = seed % 3
        tokens = [c.token for c in sampler.verify(np.log([first, second[draft]]), [draft])]
        if len(tokens) == 1:
            tokens.append(sampler(np.log(second[tokens[0]])).token)
        drawn.append(3 * tokens[0] + tokens[1])
    exact = (first[:, None] * second).flatten().tolist()
    assert chi_square_deviations(drawn, exact) < 5
    assert chi_square_deviations(drawn, [1 / 9] * 9) > 5


def test_a_guess_with_the_right_logits_is_always_right_and_records_nothing() -> None:
    for kind in ("greedy", "plain", "filtered"):
        sampler = Sampler(SamplingSettings(seed=9, **KINDS[kind]))
        for ahead in range(4):
            logits = logits_behind([ahead])
            guesses = [sampler.draft_token(logits, 2), sampler.draft_token(logits, 2)]
            later = sampler.fork(0)
            later(logits_behind([50])), later(logits_behind([51]))
            assert guesses == [later(logits).token] * 2
        assert sampler.n_drawn == 0


def test_a_guess_from_similar_logits_beats_the_likeliest_token() -> None:
    generator = np.random.default_rng(1)
    by_guess = by_likeliest = 0
    for seed in range(400):
        logits = normal(generator, 50)
        similar = logits + 0.2 * normal(generator, 50)
        sampler = Sampler(SamplingSettings(seed=seed))
        guess = sampler.draft_token(similar, 0)
        token = sampler(logits).token
        by_guess += guess == token
        by_likeliest += int(similar.argmax()) == token
    assert by_guess > 2 * by_likeliest > 0


def test_rows_must_fit_the_drafts() -> None:
    with pytest.raises(ValueError, match="2 draft tokens need 3 rows"):
        Sampler(SamplingSettings(seed=1)).verify(np.zeros((2, 5), np.float32), [1, 2])
