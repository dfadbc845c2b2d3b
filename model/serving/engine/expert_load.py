"""Expert load of the engine's steps: counted by executors that can without waiting, else by hooks on the routers.

Readers may be in any thread, and may miss what the step of this moment adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import nn

from model.layers.block import Block
from model.layers.moe.layer import MoELayer
from model.layers.moe.load import expert_load
from model.layers.moe.router import Routing
from model.serving.distributed.executor import DistributedExecutor
from model.serving.executors.base import Executor
from model.serving.executors.cuda_graphs import GraphedExecutor
from model.serving.executors.native import NativeExecutor
from model.transformer import Transformer

SAMPLE_EVERY = 32


class ExpertLoad(Protocol):
    """(Token, choice) pairs per expert, in the steps that were counted: one in `every`."""

    every: int

    @property
    def n_counted(self) -> int:
        """Steps so far whose pairs are in `load`."""

    def load(self) -> list[list[int]]:
        """Pairs per expert of each mixture, from the first on; empty for a dense model."""

    def close(self) -> None:
        """Counts no more."""


def expert_load_of(executor: Executor, transformer: Transformer) -> ExpertLoad:
    """What counts for this executor of the transformer."""
    if isinstance(executor, (NativeExecutor, GraphedExecutor)):
        return ExecutorLoad(executor)
    if isinstance(executor, DistributedExecutor):
        return RouterListener(executor.part)
    return RouterListener(transformer)


class ExecutorLoad:
    """Compiled kernels sort their pairs by expert, and captured steps add on the device: each step is counted."""

    every = 1

    def __init__(self, executor: NativeExecutor | GraphedExecutor) -> None:
        self._executor = executor

    @property
    def n_counted(self) -> int:
        return self._executor.n_steps

    def load(self) -> list[list[int]]:
        return [load_E.tolist() for load_E in self._executor.expert_load_LE]

    def close(self) -> None:
        """There is nothing to end: the counters are the executor's own."""


class RouterListener:
    """Counts in some steps, by hooks, what runs through `Transformer`; an executor that routes elsewhere shows nothing."""

    def __init__(self, transformer: Transformer, every: int = SAMPLE_EVERY) -> None:
        self.every, self.n_counted = every, 0
        layers = [module for module in transformer.modules() if isinstance(module, MoELayer)]
        self._load_LE = [torch.zeros(layer.config.n_experts, dtype=torch.int64) for layer in layers]
        self._n_calls = [0] * len(layers)
        self._n_uses = [_uses_in_a_step(transformer, layer) for layer in layers]
        self._handles = [
            layer.router.register_forward_hook(self._hook(i, layer.config.n_experts))
            for i, layer in enumerate(layers)
        ]

    def _hook(self, layer: int, n_experts: int) -> Callable[[nn.Module, object, Routing], None]:
        def count(_: nn.Module, __: object, routing: Routing) -> None:
            step, use = divmod(self._n_calls[layer], self._n_uses[layer])
            self._n_calls[layer] += 1
            if step % self.every == 0:
                self.n_counted += layer == 0 and use == 0
                self._load_LE[layer] += expert_load(routing[1], n_experts).cpu()

        return count

    def load(self) -> list[list[int]]:
        return [load_E.tolist() for load_E in self._load_LE]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def _uses_in_a_step(transformer: Transformer, mixture: MoELayer) -> int:
    """How many blocks have this mixture: layers may share one. One for those of prediction modules."""
    return max(1, sum(cast("Block", block).ffn is mixture for block in transformer.layers))
