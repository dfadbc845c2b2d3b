"""Run the micro-batches of one step through the pipeline: forward, loss and backward on every rank's stages.

The schedules are torch's (torch.distributed.pipelining): 1F1B (PipeDream-Flush, arXiv:2006.09503) with one stage per
rank, interleaved 1F1B (Megatron-LM, arXiv:2104.04473) with several. Without a pipeline axis micro-batches are plain
gradient accumulation. Shapes are given to the stages beforehand, so that no extra forward pass infers them. Optimiser
steps and gradients' sums over ranks are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

from model.parallel.lean_stage import PIPELINE_STAGE
from model.parallel.mesh.mesh import MeshError, check_schedule
from model.parallel.mesh.processes import Processes
from model.parallel.stage import Stage


class Runner(Protocol):
    """Interface of a runner: forward and backward of one step on this rank."""

    def run(self, tokens_BS: Tensor, targets_BS: Tensor, scale: Tensor, packing: dict[str, Tensor]) -> Tensor:
        """Accumulate the gradients of `scale` * summed loss; returns that loss on the last stage's rank and 0 elsewhere.

        `packing` has positions_BS and documents_BS if rows are packed documents.
        """


def runner(stages: Sequence[Stage], processes: Processes, n_micro_batches: int) -> Runner:
    """Choose the runner. Raises MeshError for too few micro-batches, or for several stages without a pipeline."""
    if processes.mesh.pp == 1:
        check_schedule(processes.mesh, n_micro_batches=n_micro_batches, n_chunks=len(stages))
        return Accumulation(stages[0], n_micro_batches)
    return Pipeline(stages, processes, n_micro_batches)


def require_even(n_rows: int, n_micro_batches: int) -> None:
    """Raises MeshError where rows cannot be cut into equal micro-batches."""
    if n_rows % n_micro_batches or not n_rows:
        raise MeshError(
            f"a batch of {n_rows} rows cannot be cut into {n_micro_batches} equal micro-batches: change either"
        )


class Accumulation:
    """Runner without a pipeline: one micro-batch after the other on one stage that has all layers."""

    def __init__(self, stage: Stage, n_micro_batches: int) -> None:
        self.stage, self.n_micro_batches = stage, n_micro_batches

    def run(self, tokens_BS: Tensor, targets_BS: Tensor, scale: Tensor, packing: dict[str, Tensor]) -> Tensor:
        require_even(tokens_BS.shape[0], self.n_micro_batches)
        self.stage.target_share = scale
        pieces = {name: tensor.chunk(self.n_micro_batches) for name, tensor in packing.items()}
        total = torch.zeros((), device=tokens_BS.device)
        for i, (tokens, targets) in enumerate(
            zip(
                tokens_BS.chunk(self.n_micro_batches),
                targets_BS.chunk(self.n_micro_batches),
                strict=True,
            )
        ):
            loss = self.stage(
                tokens, targets_BS=targets, **{name: piece[i] for name, piece in pieces.items()}
            )
            loss = loss * scale
            loss.backward()
            total += loss.detach()
        return total


@torch.no_grad()
def summed_loss(
    stages: Sequence[Stage],
    processes: Processes,
    tokens_BS: Tensor,
    targets_BS: Tensor,
    packing: dict[str, Tensor],
) -> Tensor:
    """A forward pass in evaluation mode, one stage after the other; the loss on the last stage's rank, 0 elsewhere."""
    x: Tensor = tokens_BS
    neighbours = Neighbours(processes)
    for stage in stages:
        if not stage.is_first:
            n_rows, n_tokens = tokens_BS.shape
            shape = stage.stream_shape(n_rows, n_tokens)
            x = neighbours.receive(torch.empty(shape, dtype=stage.stream_dtype, device=stage.device))
        stage.eval()
        x = stage(x, targets_BS=targets_BS, **packing)
        stage.train()
        if stage.is_last:
            return x
        neighbours.send(x)
    return torch.zeros((), device=tokens_BS.device)


class Neighbours:
    """The ranks of the previous and the next stage, in a ring if there are several stages per rank."""

    def __init__(self, processes: Processes) -> None:
        self._group = processes.group("pp")
        ranks = processes.mesh.group("pp", processes.rank)
        place = processes.at.pp
        self._before, self._behind = ranks[place - 1], ranks[(place + 1) % len(ranks)]

    def send(self, x: Tensor) -> None:
        dist.send(x.contiguous(), self._behind, group=self._group)

    def receive(self, into: Tensor) -> Tensor:
        dist.recv(into, self._before, group=self._group)
        return into


class Pipeline:
    """Runner of torch's schedule over this rank's stages; made again for each shape of micro-batches."""

    def __init__(self, stages: Sequence[Stage], processes: Processes, n_micro_batches: int) -> None:
        check_schedule(processes.mesh, n_micro_batches=n_micro_batches, n_chunks=len(stages))
        self.stages, self.processes, self.n_micro_batches = list(stages), processes, n_micro_batches
        self.scale = torch.ones(())
        self._schedules: dict[tuple[int, int], Schedule1F1B | ScheduleInterleaved1F1B] = {}

    def run(self, tokens_BS: Tensor, targets_BS: Tensor, scale: Tensor, packing: dict[str, Tensor]) -> Tensor:
        require_even(tokens_BS.shape[0], self.n_micro_batches)
        self.scale = scale
        for stage in self.stages:
            stage.target_share = scale
        shape = (tokens_BS.shape[0] // self.n_micro_batches, tokens_BS.shape[1])
        if shape not in self._schedules:
            self._schedules[shape] = self._schedule(shape)
        losses: list[Tensor] = []
        for_stages: dict[str, Any] = {
            "targets_BS": targets_BS,
            **packing,
        }  # every stage gets its micro-batches of these
        self._schedules[shape].step(
            *((tokens_BS,) if self.stages[0].is_first else ()),
            target=targets_BS,
            losses=losses,
            return_outputs=False,
            **for_stages,
        )
        if not losses:
            return torch.zeros((), device=tokens_BS.device)
        return torch.stack([loss.detach() for loss in losses]).sum()

    def _schedule(self, shape: tuple[int, int]) -> Schedule1F1B | ScheduleInterleaved1F1B:
        piped = [self._piped(stage, shape) for stage in self.stages]
        if len(piped) == 1:
            return Schedule1F1B(piped[0], self.n_micro_batches, self._scaled, scale_grads=False)
        return ScheduleInterleaved1F1B(list(piped), self.n_micro_batches, self._scaled, scale_grads=False)

    def _piped(self, stage: Stage, shape: tuple[int, int]) -> PipelineStage:
        ids = torch.empty(shape, dtype=torch.int64, device="meta")
        stream = torch.empty(
            stage.stream_shape(*shape), dtype=stage.stream_dtype, device="meta", requires_grad=True
        )
        loss = torch.empty((), device="meta", requires_grad=True)
        return PIPELINE_STAGE(
            stage,
            stage.index,
            stage.n_stages,
            stage.device,
            input_args=(ids if stage.is_first else stream,),
            output_args=(loss if stage.is_last else stream,),
            group=self.processes.group("pp"),
        )

    def _scaled(self, loss: Tensor, _: Tensor) -> Tensor:
        return loss * self.scale
