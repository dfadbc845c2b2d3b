"""AdamW whose states are spread over the ranks that hold copies of a parameter (ZeRO 1, arXiv:1910.02054).

Each rank updates its slice of every flattened parameter and hands it out to the others; AdamW works on each element by
itself, so the result is that of every rank updating all. Parameters of less than fp32 get an fp32 master copy, of the
slice only. Goes with all axes: experts are spread over `edp`, all else over `dp`. Knows nothing of gradients' sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel.collectives import Group
from model.parallel.gradients import Trained
from model.parallel.mesh import Axis
from model.parallel.processes import Processes
from model.training.recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch's AdamW names them


@dataclass(frozen=True)
class _Part:
    """A parameter, flattened, its slices by rank, and what the optimiser updates of it here."""

    name: str  # in the whole model
    parameter: nn.Parameter
    slices: tuple[Tensor, ...]  # views of the parameter
    place: int
    group: Group
    master: nn.Parameter  # this rank's slice itself where it is fp32, else a copy

    @property
    def own(self) -> Tensor:
        return self.slices[self.place]


class ShardedAdamW:
    """Decays matrices and their stacks, not vectors, as model/training/optimizer.py does. All ranks step together."""

    def __init__(
        self, trained: Sequence[Trained], processes: Processes, recipe: Recipe, *, is_sharded: bool = True
    ) -> None:
        self.parts = [_part(item, processes, is_sharded) for item in trained]
        here = [part for part in self.parts if part.master.numel()]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [part.master for part in here if (part.parameter.ndim > 1) == decays],
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
        for part in self.parts:
            gradient = part.parameter.grad
            if gradient is not None:
                own = gradient.reshape(-1).tensor_split(len(part.slices))[part.place]
                part.master.grad = own.to(part.master.dtype)
        self.optimizer.step()
        for part in self.parts:
            part.master.grad = None
            if part.own.dtype is not part.master.dtype:
                part.own.copy_(part.master)
        self._hand_out()

    def state_bytes(self) -> int:
        """What this rank keeps beside weights and gradients: moments and master copies."""
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
        """Master weights and both moments by kind and name, fp32, in the shapes of this rank's shard; all ranks call.

        `shards.merge` makes each kind one of the whole model, so that training goes on with any other mesh.
        """
        return {
            kind: {part.name: self._whole(part, kind) for part in self.parts} for kind in ("master", *MOMENTS)
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """Continues from what `state` returned after `steps` steps; each rank keeps its slices."""
        for part in self.parts:
            n_slices = len(part.slices)
            own = {
                kind: values[part.name].reshape(-1).tensor_split(n_slices)[part.place].to(part.master)
                for kind, values in state.items()
            }
            part.master.copy_(own.pop("master"))
            if part.master.numel() and steps:
                step = torch.tensor(float(steps), device=part.master.device)
                self.optimizer.state[part.master] = {"step": step, **{k: v.clone() for k, v in own.items()}}
            if part.own.dtype is not part.master.dtype:
                part.own.copy_(part.master)
        self._hand_out()

    def _whole(self, part: _Part, kind: str) -> Tensor:
        """One kind of state of a parameter, put together from all ranks' slices."""
        moments = self.optimizer.state.get(part.master, {})
        own = part.master if kind == "master" else moments.get(kind, torch.zeros_like(part.master))
        whole = torch.empty(part.parameter.numel(), dtype=part.master.dtype, device=part.master.device)
        slices = whole.tensor_split(len(part.slices))
        slices[part.place].copy_(own)
        if part.group is not None:
            for source, piece in enumerate(slices):
                if piece.numel():
                    dist.broadcast(piece, group=part.group, group_src=source)
        return whole.view_as(part.parameter)

    def _hand_out(self) -> None:
        """Each rank's slices of all parameters of one dtype travel in one message."""
        together: dict[tuple[dist.ProcessGroup, torch.dtype], list[_Part]] = defaultdict(list)
        for part in self.parts:
            if part.group is not None:
                together[part.group, part.own.dtype].append(part)
        for (group, _), parts in together.items():
            for source in range(len(parts[0].slices)):
                slices = [part.slices[source] for part in parts]
                message = torch.cat(slices)
                dist.broadcast(message, group=group, group_src=source)
                if source != parts[0].place:
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
    return _Part(
        item.name, item.parameter, slices, place, group, nn.Parameter(own if is_wide else own.float())
    )
