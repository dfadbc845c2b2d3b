"""Executor of a model whose experts do not all fit the accelerator: cold ones are computed on the host.

It wraps another executor's steps, counts the use of experts and exchanges experts between steps. Answers do not depend
on an expert's device, except for rounding. With one device the same code runs and nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model.serving.executors.base import Executor, Part
from model.serving.offload.experts import MovableExperts
from model.serving.offload.heat import HeatRules, exchanges, faded
from model.serving.offload.layout import Layout, spread
from model.transformer import Transformer


class OffloadExecutor:
    """`over` makes the executor that computes the steps of a spread model, such as `TorchExecutor`."""

    def __init__(
        self,
        model: Transformer,
        layout: Layout,
        over: Callable[[Transformer], Executor],
        rules: HeatRules | None = None,
    ) -> None:
        self.rules = rules or HeatRules()
        self.experts: list[MovableExperts] = spread(model, layout)
        self._steps = over(model)
        self.block_tokens, self.n_blocks = self._steps.block_tokens, self._steps.n_blocks
        self.bytes_per_block = self._steps.bytes_per_block
        self._heat = [[0.0] * len(experts.load_E) for experts in self.experts]
        self._n_tokens = 0  # since experts were last exchanged
        self.n_moved = 0
        self.n_pairs = self.n_hot_pairs = 0  # (token, expert) pairs so far; of those, on the accelerator

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """As `Executor.step`; from time to time experts are exchanged after it."""
        logits = self._steps.step(parts)
        self._n_tokens += sum(len(part.tokens) for part in parts)
        if self._n_tokens >= self.rules.every_tokens:
            self._rearrange()
        return logits

    def copy_block(self, source: int, target: int) -> None:
        self._steps.copy_block(source, target)

    def _rearrange(self) -> None:
        for layer, experts in enumerate(self.experts):
            load, hot = experts.take_load(), experts.hot_ids
            self.n_pairs += sum(load)
            self.n_hot_pairs += sum(load[expert] for expert in hot)
            self._heat[layer] = faded(self._heat[layer], load, self._n_tokens, self.rules)
            for leaving, entering in exchanges(self._heat[layer], hot, self.rules):
                experts.exchange(leaving, entering)
                self.n_moved += 1
        self._n_tokens = 0
