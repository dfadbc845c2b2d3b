"""Sampling keeps what its settings say, repeats with a seed, and refuses impossible settings by name."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from model.sampling import Sampler, SamplingError, SamplingSettings

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def draws(settings: SamplingSettings, n: int = 2000) -> Counter[int]:
    sampler = Sampler(settings)
    return Counter(sampler(LOGITS) for _ in range(n))


def test_temperature_zero_is_greedy() -> None:
    assert set(draws(SamplingSettings(temperature=0), 20)) == {0}


def test_plain_sampling_follows_the_distribution() -> None:
    counts = draws(SamplingSettings(seed=1))
    for token, probability in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(counts[token] / 2000 - probability) < 0.04


def test_lower_temperature_sharpens() -> None:
    counts = draws(SamplingSettings(seed=1, temperature=0.5))
    assert abs(counts[0] / 2000 - 0.25 / 0.365) < 0.04  # p^2, normalised


def test_top_k_keeps_the_best_tokens_only() -> None:
    counts = draws(SamplingSettings(seed=2, top_k=2))
    assert set(counts) == {0, 1}
    assert abs(counts[0] / 2000 - 0.625) < 0.04


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert set(draws(SamplingSettings(seed=3, top_p=0.79))) == {0, 1}
    assert set(draws(SamplingSettings(seed=3, top_p=0.85))) == {0, 1, 2}
    assert set(draws(SamplingSettings(seed=3, top_p=0.01), 50)) == {0}


def test_a_seed_repeats_and_another_differs() -> None:
    def sequence(seed: int) -> list[int]:
        sampler = Sampler(SamplingSettings(seed=seed))
        return [sampler(LOGITS) for _ in range(50)]

    assert sequence(5) == sequence(5) != sequence(6)


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, float], parameter: str) -> None:
    with pytest.raises(SamplingError) as refusal:
        SamplingSettings(**settings)  # type: ignore[arg-type]  # wrong on purpose
    assert refusal.value.parameter == parameter


def test_broken_logits_are_an_error_not_a_token() -> None:
    for settings in (SamplingSettings(temperature=0), SamplingSettings()):
        with pytest.raises(FloatingPointError):
            Sampler(settings)(torch.tensor([float("nan"), 1.0]))
