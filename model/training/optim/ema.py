"""An exponential moving average of a model's weights, kept in fp32 beside them.

average <- decay * average + (1 - decay) * weight after each update (Polyak & Juditsky 1992); it begins with the weights
themselves, so there is no bias to correct. Buffers, such as a router's balancing bias, are the newest ones: they steer
and are not learnt by gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """`weights` are the averages by parameter name, fp32, on the parameters' device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """After an update of `model`, which must have the parameters that it had at the beginning."""
        parameters = dict(model.named_parameters())
        averages = list(self.weights.values())
        newest = [parameters[name].detach().float() for name in self.weights]
        torch._foreach_lerp_(averages, newest, 1 - self.decay)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """The model computes with the averages inside the block; its own weights come back untouched."""
        parameters = dict(model.named_parameters())
        own = {name: parameters[name].data for name in self.weights}
        try:
            for name, average in self.weights.items():
                parameters[name].data = average.to(own[name].dtype)
            yield
        finally:
            for name, data in own.items():
                parameters[name].data = data

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes saved averages over. Raises ValueError where the names differ."""
        if weights.keys() != self.weights.keys():
            raise ValueError("the saved average is of another model: its parameters have other names")
        for name, average in self.weights.items():
            average.copy_(weights[name])
