"""Ranks of a job as threads of this process, over real gloo groups: no second interpreter has to import torch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from model.serving.distributed.shard import Degrees, Groups

TIMEOUT = timedelta(seconds=20)
Result = TypeVar("Result")


def gloo_group(store: dist.Store, name: str, rank: int, n_ranks: int) -> dist.ProcessGroup | None:
    """This thread's end of a group that is known to no other part of the process; None for one rank."""
    if n_ranks == 1:
        return None
    return dist.ProcessGroupGloo(dist.PrefixStore(name, store), rank, n_ranks, TIMEOUT)


def on_ranks(degrees: Degrees, compute: Callable[[int, Groups], Result]) -> list[Result]:
    """What each rank's thread returned; the first error is raised."""
    store = dist.HashStore()

    def run(rank: int) -> Result:
        world = gloo_group(store, "world", rank, degrees.n_ranks)
        replica, place = divmod(rank, degrees.tensor)
        tensor = gloo_group(store, f"tensor{replica}", place, degrees.tensor)
        return compute(rank, Groups(world, tensor))

    with ThreadPoolExecutor(degrees.n_ranks) as threads:
        return list(threads.map(run, range(degrees.n_ranks)))
