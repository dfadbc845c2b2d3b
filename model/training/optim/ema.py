"""Exponential moving average of a model's weights, in fp32.

average <- decay * average + (1 - decay) * weight after each update (Polyak & Juditsky 1992). It starts at the weights
themselves, so there is no bias to correct. Buffers, such as a router's balancing bias, are not averaged: the model's
newest ones are used.

`torch.optim.swa_utils.AveragedModel` is not used, because it holds a second model instead of averages by name and
its update refuses fp32 averages of bf16 weights; the update function is torch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The fp32 averages of a model's trainable parameters: `weights` by name, on the parameters' device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.weights = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def update(self, model: nn.Module) -> None:
        """Average in the weights of `model`, which must have the parameters that it had at the beginning."""
        parameters = dict(model.named_parameters())
        newest = [parameters[name].detach().float() for name in self.weights]
        self._average(list(self.weights.values()), newest, None)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Let the model compute with the averages inside the block; its own weights come back untouched."""
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
        """Load saved averages. Raises ValueError where the names differ."""
        if weights.keys() != self.weights.keys():
            raise ValueError("the saved average is of another model: its parameters have other names")
        for name, average in self.weights.items():
            average.copy_(weights[name])
