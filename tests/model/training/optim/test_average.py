"""The moving average of weights: its formula, and that swapping it in leaves no trace."""

from __future__ import annotations

import pytest
import torch

from model.training.optim.ema import WeightAverage
from tests.model.training.run.training_runs import DENSE, model_of, same_state


def test_it_is_the_exponential_average_of_all_weights_so_far() -> None:
    model = model_of(DENSE)
    average = WeightAverage(model, 0.9)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    for step in range(5):
        torch.manual_seed(step)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += torch.randn_like(parameter)
                expected[name] = 0.9 * expected[name] + 0.1 * parameter.double()
        average.update(model)
    for name, value in average.weights.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_swapped_in_the_model_computes_with_it_and_gets_its_own_weights_back() -> None:
    model = model_of(DENSE)
    average = WeightAverage(model, 0.5)
    tokens = torch.arange(8)[None]
    averaged = model(tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.swapped_in(model):
        assert torch.equal(model(tokens), averaged)
    assert same_state(model.state_dict(), own)
    assert not torch.equal(model(tokens), averaged)


def test_the_weights_come_back_after_an_error() -> None:
    model = model_of(DENSE)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.embedding += 1
    own = model.embedding.clone()
    with pytest.raises(RuntimeError, match="inside"), average.swapped_in(model):
        raise RuntimeError("inside")
    assert torch.equal(model.embedding, own)


def test_an_average_of_bf16_weights_is_kept_in_fp32() -> None:
    model = model_of(DENSE).bfloat16()
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.embedding += 1
    average.update(model)
    moved = average.weights["embedding"] - (model.embedding.float() - 1)
    assert moved.dtype is torch.float32
    assert 0.0005 < moved.mean() < 0.0015  # bf16 could not hold a step of a thousandth


def test_frozen_parameters_have_no_average_and_foreign_ones_are_refused() -> None:
    model = model_of(DENSE)
    model.embedding.requires_grad_(False)
    average = WeightAverage(model, 0.9)
    assert "embedding" not in average.weights
    with pytest.raises(ValueError, match="another model"):
        average.load({"embedding": model.embedding})
