"""Merge the training states of a mesh's ranks into one state of the whole model, and cut it for another mesh.

The kinds are those of `ParallelTrainer.training_state`: weights, master weights and moments, which all have the same
shapes and so the same layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import ModelConfig
from model.parallel.mesh.mesh import Mesh, check
from model.parallel.mesh.shards import layouts, merge
from model.parallel.stage import Stage


def merge_training(
    config: ModelConfig, mesh: Mesh, states: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Merge the training states of all ranks into the whole model's. Raises MeshError where a part is missing."""
    some = next(iter(states.values()))
    return {
        "steps": some["steps"],
        "model": merge(config, mesh, {rank: state["model"] for rank, state in states.items()}),
        "optimiser": {
            kind: merge(config, mesh, {rank: state["optimiser"][kind] for rank, state in states.items()})
            for kind in some["optimiser"]
        },
    }


def cut_training(
    config: ModelConfig, whole: Mapping[str, Any], mesh: Mesh, rank: int, *, n_chunks: int = 1
) -> dict[str, Any]:
    """Cut the input of `ParallelTrainer.load_training_state` for `rank` of `mesh`. Raises MeshError for an invalid mesh."""
    check(config, mesh, n_chunks=n_chunks)
    at, layout_of = mesh.coordinates(rank), layouts(config, mesh)
    names = [
        name
        for chunk in range(n_chunks)
        for name in Stage(config, mesh, at, chunk=chunk, n_chunks=n_chunks).state_dict()
    ]

    def cut(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # buffers have no moments
        return {
            name: layout_of[name].cut(values[name], mesh, at).contiguous() for name in names if name in values
        }

    return {
        "steps": whole["steps"],
        "model": cut(whole["model"]),
        "optimiser": {kind: cut(values) for kind, values in whole["optimiser"].items()},
    }
