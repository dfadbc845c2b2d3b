"""Penalties and bias change exactly the logits that their formulas name."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.sampling import Sampler, SamplingSettings
from model.sampling.penalties import Penalties

N_TOKENS = 40
tokens = st.lists(st.integers(0, N_TOKENS - 1), max_size=60)


def by_definition(
    settings: SamplingSettings, prompt: list[int], output: list[int], logits: list[float]
) -> Any:
    counts = Counter(output)
    changed = []
    for token, value in enumerate(logits):
        if token in counts or token in prompt:
            value = value / settings.repetition_penalty if value > 0 else value * settings.repetition_penalty
        value -= counts[token] * settings.frequency_penalty + (counts[token] > 0) * settings.presence_penalty
        changed.append(value + settings.logit_bias.get(token, 0))
    return np.array(changed)


@given(
    tokens,
    tokens,
    st.sampled_from([1.0, 0.5, 1.3]),
    st.sampled_from([0.0, -1.0, 0.7]),
    st.sampled_from([0.0, 0.4]),
    st.dictionaries(st.integers(0, N_TOKENS - 1), st.sampled_from([-100.0, 2.5]), max_size=3),
)
def test_changed_logits_equal_the_definition(
    prompt: list[int],
    output: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    settings = SamplingSettings(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    logits_V = np.linspace(-3, 3, N_TOKENS, dtype=np.float32)
    penalties = Penalties(settings, prompt)
    for token in output:
        penalties.record(token)
    expected = by_definition(settings, prompt, output, logits_V.tolist())
    assert np.allclose(penalties.applied(logits_V), expected, atol=1e-5)


def test_counts_are_kept_however_many_different_tokens_come() -> None:
    settings = SamplingSettings(repetition_penalty=1.3, presence_penalty=0.7, frequency_penalty=0.4)
    prompt, output = list(range(0, N_TOKENS, 3)), [token for token in range(37) for _ in range(token % 4)]
    logits_V = np.linspace(-3, 3, N_TOKENS, dtype=np.float32)
    penalties = Penalties(settings, prompt)
    for n_recorded, token in enumerate(output, 1):
        penalties.record(token)
        expected = by_definition(settings, prompt, output[:n_recorded], logits_V.tolist())
        assert np.allclose(penalties.applied(logits_V), expected, atol=1e-5)


def test_without_penalties_the_logits_are_passed_through() -> None:
    penalties = Penalties(SamplingSettings(), [1, 2, 3])
    penalties.record(1)
    logits_V = np.zeros(5, np.float32)
    assert penalties.applied(logits_V) is logits_V


def test_presence_and_frequency_leave_the_prompt_alone() -> None:
    sampler = Sampler(
        SamplingSettings(temperature=0, presence_penalty=2.0, frequency_penalty=2.0), prompt=(0, 0, 0)
    )
    logits = np.array([1.0, 0.0], np.float32)
    assert [sampler(logits).token for _ in range(3)] == [0, 1, 0]


def test_repetition_counts_the_prompt() -> None:
    logits = np.array([1.0, 0.9], np.float32)
    settings = SamplingSettings(temperature=0, repetition_penalty=1.5)
    assert Sampler(settings)(logits).token == 0
    assert Sampler(settings, prompt=(0,))(logits).token == 1


@pytest.mark.parametrize("penalty", [1e-40, 5e-324])
@pytest.mark.parametrize("filtered", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"temperature": 0}])
def test_the_least_repetition_penalty_draws_among_what_it_lifts(
    penalty: float, filtered: dict[str, Any]
) -> None:
    settings = SamplingSettings(seed=1, repetition_penalty=penalty, **filtered)
    sampler = Sampler(settings, prompt=(1, 2, 3))
    logits = np.array([9, 4, 3, -1, 0], np.float32)  # divided by the penalty, two of these exceed fp32
    assert {sampler(logits).token for _ in range(3)} <= {1, 2}


def test_a_frequency_penalty_spreads_the_output() -> None:
    logits = np.array([1.0, 0.9, 0.8, 0.0], np.float32)
    plain, spread = (
        [sampler(logits).token for _ in range(9)]
        for sampler in (
            Sampler(SamplingSettings(temperature=0)),
            Sampler(SamplingSettings(temperature=0, frequency_penalty=0.5)),
        )
    )
    assert plain == [0] * 9
    assert Counter(spread) == {0: 3, 1: 3, 2: 2, 3: 1}


def test_a_fork_counts_for_itself() -> None:
    penalties = Penalties(SamplingSettings(presence_penalty=1.0), [])
    penalties.record(0)
    fork = penalties.fork()
    penalties.record(1)
    logits_V = np.zeros(3, np.float32)
    assert penalties.applied(logits_V).tolist() == [-1, -1, 0]
    assert fork.applied(logits_V).tolist() == [-1, 0, 0]
