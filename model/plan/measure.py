"""Measure what the planner's formulas predict: shards on the meta device, live activations, counted messages.

The only file of this package that imports torch.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import ModelConfig
from model.parallel.mesh.mesh import Mesh
from model.parallel.mesh.processes import Processes
from model.parallel.stage import Stage
from model.plan.sizes import Parameters

SETTLING_S, SETTLING_LOOKS = 0.2, 40


def shard_parameters(config: ModelConfig, mesh: Mesh, rank: int, n_chunks: int = 1) -> Parameters:
    """Number of parameters of a rank's real shard, made on the meta device."""
    counted = Parameters()
    for chunk in range(n_chunks):
        stage = Stage(config, mesh, mesh.coordinates(rank), chunk=chunk, n_chunks=n_chunks)
        expert = sum(parameter.numel() for parameter in stage.expert_parameters())
        total = sum(parameter.numel() for parameter in stage.parameters())
        in_blocks = sum(parameter.numel() for parameter in stage.layers.parameters())
        counted += Parameters(in_blocks - expert, expert, total - in_blocks)
    return counted


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch ships no types for it
    """Counts the bytes of storages that operations make while it is on and that are still alive.

    A collective's own thread frees tensors too, so sizes are kept one by one: no sum is written from two threads.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._sizes: dict[int, int] = {}  # by address

    @property
    def now(self) -> int:
        return sum(tuple(self._sizes.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known_before = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in known_before | self._sizes.keys():
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size:
            return
        self._sizes[address] = size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._sizes.pop, address, None)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def kept_by(forward: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """A forward pass's output and the bytes that it keeps alive for its backward pass, output included."""
    with LiveBytes() as live:
        y = forward()
        gc.collect()  # checkpointing's reference cycles, which keep nothing for the backward pass
    return y, _settled(live)


def _settled(live: LiveBytes) -> int:
    """The bytes once they are stable: a collective's thread may hold its tensors for a moment after its wait."""
    seen = live.now
    for _ in range(SETTLING_LOOKS):
        time.sleep(SETTLING_S / SETTLING_LOOKS)
        if (now := live.now) == seen:
            break
        seen = now
    return seen


class Messages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that this rank passes to collectives and sends, by axis of the mesh."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: Counter[str] = Counter()
        self._axes: dict[str, str] = {
            group.group_name: axis for axis, group in processes.groups.items() if group is not None
        }
        if processes.ends is not None:
            self._axes[processes.ends.group_name] = "ends"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name, group = func.name().partition("::")[2], _group(args)
            is_received = name.startswith(("recv", "barrier"))
            if name.startswith("broadcast") and group is not None:
                is_received = group.rank() != args[2]
            if not is_received:
                axis = "world" if group is None else self._axes.get(group.group_name, "world")
                self.bytes[axis] += sum(_payload(name, args))
        return func(*args, **(kwargs or {}))


def _group(args: Any) -> dist.ProcessGroup | None:
    for argument in args:
        if isinstance(argument, torch.ScriptObject):
            try:
                return dist.ProcessGroup.unbox(argument)
            except (RuntimeError, ValueError):
                continue
    return None


def _payload(name: str, args: Any) -> Iterator[int]:
    # all-to-all and gathers have their output first; the input follows
    position = (
        1 if name.startswith(("alltoall", "allgather", "_allgather", "reduce_scatter", "_reduce")) else 0
    )
    for leaf in tree_leaves(args[position]):
        if isinstance(leaf, Tensor):
            yield leaf.numel() * leaf.element_size()


@contextmanager
def counted_messages(processes: Processes) -> Iterator[Messages]:
    """`with counted_messages(processes) as messages:` counts, including backward passes inside."""
    with Messages(processes) as messages:
        yield messages
