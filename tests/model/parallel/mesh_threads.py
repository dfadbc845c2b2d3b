"""Ranks of a mesh as threads of this process, over real gloo groups: no second interpreter has to import torch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import torch
import torch.distributed as dist

from model.parallel.collectives import Group
from model.parallel.mesh.mesh import Axis, Coordinates, Mesh
from model.parallel.mesh.processes import Processes
from tests.model.parallel.gloo_threads import Result, gloo_group


def axis_group(store: dist.Store, name: str, rank: int, n_ranks: int) -> Group:
    """As `gloo_group`, for all-to-alls: those are a process group's, which has gloo as its backend."""
    backend = gloo_group(store, name, rank, n_ranks)
    if backend is None:
        return None
    group = dist.ProcessGroup(dist.PrefixStore(f"{name} group", store), rank, n_ranks)
    group._set_default_backend(dist.ProcessGroup.BackendType.GLOO)
    group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, backend)
    return group


def on_processes(mesh: Mesh, compute: Callable[[Processes], Result]) -> list[Result]:
    """What `compute` returned on each rank of a mesh without a pipeline, by rank; there is no world beyond its axes."""
    store = dist.HashStore()

    def own_group(axis: Axis, rank: int) -> Group:
        ranks = mesh.group(axis, rank)
        return axis_group(store, f"{axis}{ranks[0]}", ranks.index(rank), len(ranks))

    def run(rank: int) -> Result:
        groups = {axis: own_group(axis, rank) for axis in get_args(Axis)}
        return compute(Processes(mesh, rank, mesh.coordinates(rank), groups, None))

    with ThreadPoolExecutor(mesh.world_size) as threads:
        return list(threads.map(run, range(mesh.world_size)))


def on_mesh(mesh: Mesh, compute: Callable[[Coordinates, Group, Group], Result]) -> list[Result]:
    """What `compute(coordinates, tp_group, ep_group)` returned on each rank, by rank."""
    return on_processes(mesh, lambda own: compute(own.at, own.group("tp"), own.group("ep")))
