"""Cut a whole model's weights into the shards of a mesh, and merge shards again.

The dimension along which a parameter is split follows from the shapes alone: those of the whole model compared with
those of a model for 1 / tp of the heads and widths. So a checkpoint of one mesh can be continued on any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.config import ModelConfig
from model.layers.unfilled import unfilled
from model.parallel.mesh.mesh import Coordinates, Mesh, MeshError
from model.parallel.mesh.share import local_config
from model.parallel.stage import Stage
from model.transformer import Transformer


@dataclass(frozen=True)
class Layout:
    """Layout of one parameter or buffer: `tp_dim` is split over the tensor axis, experts' first dimension over `ep`."""

    shape: tuple[int, ...]  # of the whole
    tp_dim: int | None
    is_expert: bool

    def cut(self, whole: Tensor, mesh: Mesh, at: Coordinates) -> Tensor:
        """Cut out the part of the rank at `at`; a view if possible. Raises MeshError for a tensor of another shape."""
        if tuple(whole.shape) != self.shape:
            raise MeshError(f"a weight has shape {tuple(whole.shape)}, but the model has {self.shape}")
        part = whole.chunk(mesh.ep)[at.ep] if self.is_expert else whole
        return part if self.tp_dim is None else part.chunk(mesh.tp, self.tp_dim)[at.tp]

    def local_shape(self, mesh: Mesh) -> tuple[int, ...]:
        shape = list(self.shape)
        if self.is_expert:
            shape[0] //= mesh.ep
        if self.tp_dim is not None:
            shape[self.tp_dim] //= mesh.tp
        return tuple(shape)


@lru_cache(maxsize=16)
def layouts(config: ModelConfig, mesh: Mesh) -> dict[str, Layout]:
    """The layouts of the whole model's state dict by name; cached, not to be changed."""
    with unfilled():
        whole = Transformer(config).state_dict()
        part = Transformer(local_config(config, mesh.tp, mesh.etp)).state_dict()
    return {name: _layout(name, tensor.shape, part[name].shape, mesh) for name, tensor in whole.items()}


def _layout(name: str, whole: torch.Size, part: torch.Size, mesh: Mesh) -> Layout:
    split = [dim for dim, (full, own) in enumerate(zip(whole, part, strict=True)) if full != own]
    if len(split) > 1 or any(whole[dim] != part[dim] * mesh.tp for dim in split):
        raise MeshError(
            f"{name} {tuple(whole)} cannot be split evenly into parts {tuple(part)} for tp={mesh.tp}"
        )
    return Layout(tuple(whole), split[0] if split else None, mesh.ep > 1 and ".experts." in name)


def load(
    stage: Stage, state: Mapping[str, Tensor], mesh: Mesh, at: Coordinates, device: torch.device
) -> None:
    """Load a stage on the meta device with its share of a whole model's weights, in the stage's dtypes.

    Reads only what the stage needs, so that a memory-mapped checkpoint may be larger than memory. Raises MeshError
    where a weight is missing or has another shape.
    """
    stage.to_empty(device=device)
    for buffer in stage.buffers():  # counters and balancing biases; saved ones are loaded below
        buffer.zero_()
    layout_of = layouts_of_stage(stage, mesh)
    missing = sorted(set(layout_of) - set(state))
    if missing:
        raise MeshError(
            f"the checkpoint has no {missing[0]} and {len(missing) - 1} more: it is of another model"
        )
    own = {name: layout.cut(state[name], mesh, at) for name, layout in layout_of.items()}
    stage.load_state_dict(own)


def layouts_of_stage(stage: Stage, mesh: Mesh) -> dict[str, Layout]:
    """The layouts of one stage's state dict."""
    of_all = layouts(stage.whole_config, mesh)
    return {name: of_all[name] for name in stage.state_dict()}


def merge(config: ModelConfig, mesh: Mesh, shards: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Merge the ranks' shards into a whole model's state dict; the inverse of cutting.

    `shards` maps ranks to state dicts, or to moments, which buffers do not have; ranks that only have copies may be left
    out. Raises MeshError where a part is missing.
    """
    merged: dict[str, Tensor] = {}
    with unfilled():
        buffers = {name for name, _ in Transformer(config).named_buffers()}
    for name, layout in layouts(config, mesh).items():
        if name in buffers and not any(name in shard for shard in shards.values()):
            continue
        experts = [
            torch.cat([_part(name, mesh, shards, ep, tp) for tp in range(mesh.tp)], layout.tp_dim)
            if layout.tp_dim is not None
            else _part(name, mesh, shards, ep, None)
            for ep in (range(mesh.ep) if layout.is_expert else (None,))
        ]
        merged[name] = torch.cat(experts) if len(experts) > 1 else experts[0]
    return merged


def _part(
    name: str, mesh: Mesh, shards: Mapping[int, Mapping[str, Tensor]], ep: int | None, tp: int | None
) -> Tensor:
    """The part of `name` at the places `ep` and `tp`, from the first rank that has it; None is any place."""
    for rank in _ranks_at(mesh, ep, tp):
        if name in shards.get(rank, {}):
            return shards[rank][name]
    places = " and ".join(
        f"{axis} place {place}" for axis, place in (("ep", ep), ("tp", tp)) if place is not None
    )
    raise MeshError(f"no shard has {name}{places and f' for {places}'}: save all ranks of {mesh}")


def _ranks_at(mesh: Mesh, ep: int | None, tp: int | None) -> Iterable[int]:
    for rank in range(mesh.world_size):
        at = mesh.coordinates(rank)
        if ep in (None, at.ep) and tp in (None, at.tp):
            yield rank
