"""All-reduce of gradients over the ranks that hold copies of a parameter, and clipping by the global norm.

The loss is a sum over tokens divided by their number in the whole step, so every axis sums and none averages. Summed
over each axis:

- parameters that are whole on each tensor parallel rank but used on its heads only, or with a split sequence on its part
  of the positions or of a sum: over `tp`;
- the embedding that is tied to the head and is on the first and the last pipeline stage: over these two;
- routed experts that are spread over ranks: over `edp`, the ranks that hold copies of them; all others: over `dp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel.buckets import buckets
from model.parallel.collectives import Group
from model.parallel.mesh.processes import Processes
from model.parallel.mesh.shards import Layout, layouts
from model.parallel.stage import Stage


@dataclass(frozen=True)
class Trained:
    """One trained parameter of this rank, its layout, and the number of ranks with the same values."""

    name: str
    parameter: nn.Parameter
    layout: Layout
    is_partial: bool
    is_tied: bool
    replicas: int


class Gradients:
    """The gradients of one rank's stages. All ranks must call its methods together."""

    def __init__(self, stages: Sequence[Stage], processes: Processes) -> None:
        self.processes = processes
        self.trained = list(_trained(stages, processes))

    def add_up(self) -> None:
        """All-reduce gradients after the last backward pass of a step: each copy gets the gradient of the whole step."""
        for item in self.trained:  # an expert without tokens has none, but its copies on other ranks may
            if item.parameter.grad is None:
                item.parameter.grad = torch.zeros_like(item.parameter)
        self._add(self.processes.group("tp"), [item for item in self.trained if item.is_partial])
        self._add(self.processes.ends, [item for item in self.trained if item.is_tied])
        self._add(self.processes.group("dp"), [item for item in self.trained if not item.layout.is_expert])
        self._add(self.processes.group("edp"), [item for item in self.trained if item.layout.is_expert])

    def clip(self, max_norm: float) -> Tensor:
        """Clip all gradients to a norm of `max_norm` over the whole model; returns the norm before."""
        norm = self.norm()
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ does
        for item in self.trained:
            if item.parameter.grad is not None:
                item.parameter.grad.mul_(scale.to(item.parameter.grad.dtype))
        return norm

    def norm(self) -> Tensor:
        """Euclidean norm over all gradients of the whole model, each parameter once; fp32 scalar."""
        device = self.trained[0].parameter.device
        total = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        for item in self.trained:
            if item.parameter.grad is not None:
                total += item.parameter.grad.float().square().sum().to(total.dtype) / item.replicas
        if self.processes.mesh.world_size > 1:
            dist.all_reduce(total)
        return total.sqrt().float()

    @staticmethod
    def _add(group: Group, items: Sequence[Trained]) -> None:
        if group is None:
            return
        for bucket in buckets([item.parameter.grad for item in items if item.parameter.grad is not None]):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                dist.all_reduce(bucket[0], group=group)
                continue
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat, group=group)
            totals = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, totals, strict=True):
                gradient.copy_(total.view_as(gradient))


def _trained(stages: Sequence[Stage], processes: Processes) -> Iterator[Trained]:
    mesh = processes.mesh
    layout_of = layouts(stages[0].whole_config, mesh)
    for stage in stages:
        for name, parameter in stage.named_parameters():  # names a shared parameter once
            if not parameter.requires_grad:
                continue
            layout = layout_of[name]
            is_tied = name == "embedding" and stage.config.tie_embeddings and mesh.pp > 1
            copies = mesh.edp if layout.is_expert else mesh.dp
            if layout.tp_dim is None and not layout.is_expert:  # whole experts' copies are all on edp
                copies *= mesh.tp
            yield Trained(
                name=name,
                parameter=parameter,
                layout=layout,
                is_partial=mesh.tp > 1
                and layout.tp_dim is None
                and not layout.is_expert
                and (stage.splits_sequence or ".attention." in name),
                is_tied=is_tied,
                replicas=copies * 2 if is_tied else copies,
            )
