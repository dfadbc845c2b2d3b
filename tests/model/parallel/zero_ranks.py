"""What two ranks find when they save, move, evaluate and spoil runs that DeepSpeed trains: one job for all, as JSON.

`test_zero.py` starts it, since each job costs seconds of imports.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.data.batches.batch import Batch
from model.parallel.check import (
    Job,
    largest_difference,
    own_rows,
    single_process,
    trainer_of,
)
from model.parallel.check_shapes import SHAPES
from model.parallel.mesh.mesh import Mesh, MeshError
from model.parallel.mesh.processes import connect, join
from model.parallel.trainer import ParallelTrainer
from model.parallel.training_state import cut_training, merge_training
from model.parallel.zero.axis import ZeroTrainer
from model.parallel.zero.engine import ZeroConfig
from model.training.config.recipe import Recipe
from model.training.losses.cross_entropy import next_token_targets
from model.training.run.errors import NotFiniteError

TIMEOUT_S = 60.0
RECIPE = Recipe(learning_rate=0.01, warmup_steps=2, clip_norm=0.5)  # it binds in all steps
DP, EP, TP = Mesh(dp=2), Mesh(dp=2, ep=2), Mesh(tp=2)
GOING_ON: dict[str, tuple[str, Mesh, ZeroConfig]] = {
    "stage 0": ("small-latent", EP, ZeroConfig(0)),
    "stage 1": ("small-latent", DP, ZeroConfig(1)),
    "stage 2 in bf16, offloaded, experts": ("small-latent", EP, ZeroConfig(2, offload=True, is_bf16=True)),
    "stage 3 in bf16, offloaded": ("small-moe", DP, ZeroConfig(3, offload=True, is_bf16=True)),
}
BROKEN = {
    "stage 2": ZeroConfig(2),
    "stage 2 in bf16": ZeroConfig(2, is_bf16=True),
    "stage 3, offloaded": ZeroConfig(3, offload=True),
}
LEGS: list[tuple[Mesh, int | None]] = [(DP, 1), (TP, None), (EP, 2), (DP, 3), (DP, None)]
Trained = ParallelTrainer | ZeroTrainer


def job(model: str = "small-moe", zero: ZeroConfig | None = None) -> Job:
    owners = SHAPES[model].attention_owners
    config = replace(SHAPES[model], n_layers=2, attention_owners=None if owners is None else owners[:2])
    return Job(config, 10, 8, 16, 0, 2, 1, "none", False, False, zero)


def made(of: Job, mesh: Mesh, whole: Mapping[str, Any] | None = None) -> Trained:
    processes = connect(mesh, timeout_s=TIMEOUT_S)
    trainer = trainer_of(of, processes, RECIPE)
    if whole is not None:
        trainer.load_training_state(cut_training(of.config, whole, mesh, processes.rank))
    return trainer


def steps(trainer: Trained, of: Job, numbers: range) -> list[float]:
    mesh, place = trainer.processes.mesh, trainer.processes.at.dp
    return [float(trainer.step(own_rows(of.batch(number), mesh, place))) for number in numbers]


def merged(trainer: Trained) -> dict[str, Any]:
    mesh = trainer.processes.mesh
    states: list[Any] = [None] * mesh.world_size
    dist.all_gather_object(states, trainer.training_state())
    return merge_training(trainer.config, mesh, dict(enumerate(states)))


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of weights and states that are not the same bits."""
    kinds = {"model": (one["model"], other["model"])}
    kinds |= {kind: (values, other["optimiser"][kind]) for kind, values in one["optimiser"].items()}
    return [
        f"{kind} {name}"
        for kind, (ours, theirs) in kinds.items()
        for name in ours
        if not torch.equal(ours[name], theirs[name])
    ]


def gone_on(model: str, mesh: Mesh, zero: ZeroConfig) -> dict[str, Any]:
    """A run of six steps, and one that goes on from its third in a trainer of other weights."""
    straight = job(model, zero)
    first = made(straight, mesh)
    steps(first, straight, range(3))
    whole = merged(first)
    again = made(replace(straight, seed=1), mesh, whole)
    at_once = unlike(whole, merged(again))
    losses = [steps(trainer, straight, range(3, 6)) for trainer in (first, again)]
    return {
        "losses": losses,
        "unlike_at_once": at_once,
        "unlike": unlike(merged(first), merged(again)),
        "moved": len(unlike(merged(first), whole)),
    }


def moved() -> dict[str, Any]:
    """Two steps on each leg, by DeepSpeed and without, and the same steps in one process."""
    whole: dict[str, Any] | None = None
    curve: list[float] = []
    for leg, (mesh, stage) in enumerate(LEGS):
        of = job(zero=None if stage is None else ZeroConfig(stage))
        trainer = made(of, mesh, whole)
        curve += steps(trainer, of, range(2 * leg, 2 * leg + 2))
        whole = merged(trainer)
    single = single_process(job(), RECIPE)
    return {"learnt": single[0] - single[-1], "difference": largest_difference(curve, single)}


def evaluated(stage: int) -> dict[str, Any]:
    """The loss of a batch before and after an update, by this trainer and by ours, with the update's figures."""
    ours, theirs = made(job(), DP), made(job(zero=ZeroConfig(stage)), DP)
    batch = rows(job().batch(0), ours)

    def figures(trainer: Trained) -> list[float]:
        before = trainer.summed_loss(batch, is_packed=False)
        return [
            before,
            *trainer.update(batch, 0.01, is_packed=False),
            trainer.summed_loss(batch, is_packed=False),
        ]

    return {"ours": figures(ours), "theirs": figures(theirs)}


def broken(zero: ZeroConfig) -> dict[str, Any]:
    """An update with a loss that is not finite on one rank, and one after it."""
    trainer = made(job(zero=zero), DP)
    batch = rows(job().batch(0), trainer)
    trainer.update(batch, 0.01, is_packed=False)
    before = merged(trainer)
    spoilt = trainer.stages[0].register_forward_hook(spoil) if dist.get_rank() == 0 else None
    try:
        trainer.update(batch, 0.01, is_packed=False)
        message = ""
    except NotFiniteError as error:
        message = str(error)
    if spoilt is not None:
        spoilt.remove()
    messages = ["", ""]
    dist.all_gather_object(messages, message)
    moved_by_it = unlike(before, merged(trainer))
    return {"message": messages, "unlike": moved_by_it, "next": trainer.update(batch, 0.01, is_packed=False)}


def refused() -> str:
    """What an update whose gradients' norm is not told says."""
    trainer = made(job(zero=ZeroConfig(0)), DP)
    try:
        trainer.update(rows(job().batch(0), trainer), 0.01, is_packed=False)
    except MeshError as error:
        return str(error)
    return ""


def spoil(_module: nn.Module, _inputs: object, loss: Tensor) -> Tensor:
    return loss * float("nan")


def rows(tokens_BS: Tensor, trainer: Trained) -> Batch:
    own = own_rows(tokens_BS, trainer.processes.mesh, trainer.processes.at.dp)
    positions_BS = torch.arange(own.shape[1]).expand(len(own), -1).contiguous()
    return Batch(own, positions_BS, torch.zeros_like(own), next_token_targets(own))


def main() -> None:
    rank, _ = join(timeout_s=TIMEOUT_S)
    found: dict[str, Any] = {
        "going_on": {name: gone_on(*case) for name, case in GOING_ON.items()},
        "moved": moved(),
        "evaluated": {str(stage): evaluated(stage) for stage in (2, 3)},
        "refused": refused(),
        "broken": {name: broken(zero) for name, zero in BROKEN.items()},
    }
    if rank == 0:
        sys.stdout.write(json.dumps(found))
        sys.stdout.flush()
    dist.barrier()
    os._exit(0)  # engines need no order at the end


if __name__ == "__main__":
    main()
