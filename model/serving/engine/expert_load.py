"""Expert load of the engine's steps: counted by executors that can without waiting, else by hooks on the routers.

Any thread may read; a reading may miss the current step.
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
    """Expert load: (token, choice) pairs per expert in the counted steps, one in `every`."""

    every: int

    @property
    def n_counted(self) -> int:
        """Number of steps whose pairs are in `load`."""

    def load(self) -> list[list[int]]:
        """Pairs per expert of each mixture, from the first on; empty for a dense model."""

    def close(self) -> None:
        """Stop counting."""


def expert_load_of(executor: Executor, transformer: Transformer) -> ExpertLoad:
    """Choose the counter for this executor of the transformer."""
    if isinstance(executor, (NativeExecutor, GraphedExecutor)):
        return ExecutorLoad(executor)
    if isinstance(executor, DistributedExecutor):
        return RouterListener(executor.part)
    return RouterListener(transformer)


class ExecutorLoad:
    """Counts of an executor that counts each step: compiled kernels, and captured steps on the device."""

    every = 1

    def __init__(self, executor: NativeExecutor | GraphedExecutor) -> None:
        self._executor = executor

    @property
    def n_counted(self) -> int:
        return self._executor.n_steps

    def load(self) -> list[list[int]]:
        return [load_E.tolist() for load_E in self._executor.expert_load_LE]

    def close(self) -> None:
        """Do nothing: the counters are the executor's."""


class RouterListener:
    """Counts some steps by hooks on the transformer's routers; routing outside of `Transformer` is not counted."""

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
    """Number of blocks that use this MoE layer, which layers may share; one for those of MTP modules."""
    return max(1, sum(cast("Block", block).ffn is mixture for block in transformer.layers))
