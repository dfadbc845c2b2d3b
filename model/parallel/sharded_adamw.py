"""AdamW whose states are spread over the ranks that hold copies of a parameter (ZeRO 1, arXiv:1910.02054).

Each rank updates its slice of every flattened parameter and broadcasts it to the others; AdamW is element-wise, so the
result is that of every rank updating all. Parameters narrower than fp32 get an fp32 master copy of the slice; their
gradients are cast, and updated weights broadcast, in buckets of at most BUCKET_ELEMENTS, which bounds temporary memory.
Works with all axes: experts are spread over `edp`, all others over `dp`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel.buckets import BUCKET_ELEMENTS, buckets
from model.parallel.collectives import Group
from model.parallel.gradients import Trained
from model.parallel.mesh.mesh import Axis
from model.parallel.mesh.processes import Processes
from model.training.config.recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch's AdamW names them


@dataclass(frozen=True)
class _Part:
    """A flattened parameter, its slices by rank, and this rank's pieces for the optimiser."""

    name: str  # in the whole model
    parameter: nn.Parameter
    slices: tuple[Tensor, ...]  # views of the parameter
    place: int
    group: Group
    master: Tensor  # this rank's slice itself where it is fp32, else a copy
    pieces: tuple[nn.Parameter, ...]  # the master's runs of at most BUCKET_ELEMENTS, for the optimiser

    @property
    def own(self) -> Tensor:
        return self.slices[self.place]

    def cut(self, values: Tensor) -> tuple[Tensor, ...]:
        """This rank's slice of a tensor of the parameter's shape, cut like the pieces; views."""
        own = values.reshape(-1).tensor_split(len(self.slices))[self.place]
        return torch.split(own, BUCKET_ELEMENTS) if own.numel() else ()


class ShardedAdamW:
    """Sharded AdamW with weight decay as in model/training/optim/choice.py. All ranks must step together."""

    def __init__(
        self, trained: Sequence[Trained], processes: Processes, recipe: Recipe, *, is_sharded: bool = True
    ) -> None:
        self.parts = [_part(item, processes, is_sharded) for item in trained]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [
                        piece
                        for part in self.parts
                        if (part.parameter.ndim > 1) == decays
                        for piece in part.pieces
                    ],
                    "weight_decay": recipe.weight_decay if decays else 0.0,
                }
                for decays in (True, False)
            ],
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.eps,
            fused=True,
        )

    def zero_grad(self) -> None:
        for part in self.parts:
            part.parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        pieces: list[nn.Parameter] = []
        runs: list[Tensor] = []
        for part in self.parts:
            if part.parameter.grad is not None:
                pieces.extend(part.pieces)
                runs.extend(part.cut(part.parameter.grad))
        left = iter(pieces)
        for bucket in buckets(runs):
            updated = list(islice(left, len(bucket)))
            for piece, gradient in zip(updated, bucket, strict=True):
                piece.grad = gradient.to(piece.dtype)
            self.optimizer.step()  # updates pieces with a gradient
            for piece in updated:
                piece.grad = None
        for part in self.parts:
            if part.own.dtype is not part.master.dtype:
                part.own.copy_(part.master)
        self._hand_out()

    def state_bytes(self) -> int:
        """Bytes that this rank keeps in addition to weights and gradients: moments and master copies."""
        moments = sum(
            tensor.numel() * tensor.element_size()
            for state in self.optimizer.state.values()
            for tensor in state.values()
            if isinstance(tensor, Tensor) and tensor.ndim
        )
        masters = sum(
            part.master.numel() * part.master.element_size()
            for part in self.parts
            if part.own.dtype is not part.master.dtype
        )
        return moments + masters

    @torch.no_grad()
    def state(self) -> dict[str, dict[str, Tensor]]:
        """Master weights and moments by kind and name, fp32, in this rank's shapes; all ranks must call it.

        `shards.merge` merges each kind into the whole model's, so that training can continue on any other mesh.
        """
        return {
            kind: {part.name: self._whole(part, kind) for part in self.parts} for kind in ("master", *MOMENTS)
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """Restore what `state` returned after `steps` steps; each rank keeps its slices."""
        for part in self.parts:
            own = {kind: part.cut(values[part.name]) for kind, values in state.items()}
            for at, piece in enumerate(part.pieces):
                piece.copy_(own["master"][at])
                if steps:
                    moments = {kind: own[kind][at].to(piece, copy=True) for kind in MOMENTS}
                    step = torch.tensor(float(steps), device=piece.device)
                    self.optimizer.state[piece] = {"step": step, **moments}
            if part.own.dtype is not part.master.dtype:
                part.own.copy_(part.master)
        self._hand_out()

    def _whole(self, part: _Part, kind: str) -> Tensor:
        """One kind of state of a parameter, gathered from all ranks' slices."""
        whole = torch.empty(part.parameter.numel(), dtype=part.master.dtype, device=part.master.device)
        for run, piece in zip(part.cut(whole), part.pieces, strict=True):
            moments = self.optimizer.state.get(piece, {})
            run.copy_(piece if kind == "master" else moments.get(kind, torch.zeros_like(piece)))
        slices = whole.tensor_split(len(part.slices))
        if part.group is not None:
            for source, values in enumerate(slices):
                if values.numel():
                    dist.broadcast(values, group=part.group, group_src=source)
        return whole.view_as(part.parameter)

    def _hand_out(self) -> None:
        """Broadcast each rank's slices, bucket by bucket."""
        together: dict[dist.ProcessGroup, list[_Part]] = defaultdict(list)
        for part in self.parts:
            if part.group is not None:
                together[part.group].append(part)
        for group, parts in together.items():
            for source in range(len(parts[0].slices)):
                for bucket in buckets([part.slices[source] for part in parts]):
                    _broadcast(bucket, group, source)


def _broadcast(slices: Sequence[Tensor], group: dist.ProcessGroup, source: int) -> None:
    """Broadcast the `slices` of the rank at place `source` of the group, in one message."""
    if len(slices) == 1:
        dist.broadcast(slices[0], group=group, group_src=source)
        return
    message = torch.cat([*slices])
    dist.broadcast(message, group=group, group_src=source)
    if group.rank() != source:
        arrived = torch.split(message, [piece.numel() for piece in slices])
        for piece, values in zip(slices, arrived, strict=True):
            piece.copy_(values)


def _part(item: Trained, processes: Processes, is_sharded: bool) -> _Part:
    axis: Axis = "edp" if item.layout.is_expert else "dp"
    group = processes.group(axis) if is_sharded else None
    n_ranks = processes.mesh.degree(axis) if group is not None else 1
    place = getattr(processes.at, axis) if group is not None else 0
    slices = item.parameter.detach().view(-1).tensor_split(n_ranks)
    own = slices[place]
    is_wide = own.dtype in (torch.float32, torch.float64)
    master = own if is_wide else own.float()
    pieces = tuple(nn.Parameter(run) for run in torch.split(master, BUCKET_ELEMENTS)) if own.numel() else ()
    return _Part(item.name, item.parameter, slices, place, group, master, pieces)
