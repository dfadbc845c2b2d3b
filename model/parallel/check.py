"""Train a small model on a mesh of ranks and in one process, and print both loss curves, which must be equal.

    torchrun --standalone --nproc-per-node 4 -m model.parallel.check --mesh tp=2,pp=2 --mesh ep=2,dp=2,pp=2

Each `--mesh` is run in turn by the same processes. `--model` names a shape below, a preset, or a JSON file of
`ModelConfig.to_dict`. Exit 0 where all curves are equal within the tolerance, 1 where one is not, 2 for input that
cannot be run, 3 where a rank is missing or lost.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.config import ConfigError, ModelConfig
from model.parallel.check_shapes import SHAPES
from model.parallel.mesh.mesh import Mesh, MeshError, check_schedule
from model.parallel.mesh.processes import Processes, RankMissingError, connect, disconnect, join, own_device
from model.parallel.trainer import ParallelTrainer
from model.parallel.training_state import cut_training, merge_training
from model.parallel.zero.axis import ZeroTrainer
from model.parallel.zero.engine import ZeroConfig
from model.presets import PRESETS
from model.training.config.recipe import Recipe
from model.training.run.trainer import Trainer
from model.transformer import Transformer

Trained = ParallelTrainer | ZeroTrainer


@dataclass(frozen=True)
class Job:
    """The training job: `rows` random sequences per step, the same for every mesh."""

    config: ModelConfig
    steps: int
    rows: int
    tokens: int
    seed: int
    n_micro_batches: int | None
    n_chunks: int
    checkpointing: Any
    is_packed: bool
    shards_states: bool
    zero: ZeroConfig | None
    splits_sequence: bool = False

    def chunks_on(self, mesh: Mesh) -> int:
        """Stages per rank; one on meshes without a pipeline."""
        return self.n_chunks if mesh.pp > 1 else 1

    def splits_on(self, mesh: Mesh) -> bool:
        """Whether the stream is split by positions, which needs tensor parallel ranks."""
        return self.splits_sequence and mesh.tp > 1

    def batch(self, step: int) -> Tensor:
        """Ids [B, S] with structure to learn: each row counts up from a random start by a random stride."""
        rng = torch.Generator().manual_seed(self.seed * 10_007 + step)
        start_B1 = torch.randint(self.config.vocab_size, (self.rows, 1), generator=rng)
        stride_B1 = torch.randint(1, 4, (self.rows, 1), generator=rng)
        noise_BS = torch.randint(2, (self.rows, self.tokens), generator=rng)
        return (start_B1 + stride_B1 * torch.arange(self.tokens) + noise_BS) % self.config.vocab_size

    def packing(self) -> dict[str, Tensor]:
        """Two documents in each row, with --packed."""
        if not self.is_packed:
            return {}
        first = self.tokens // 3
        documents_S = (torch.arange(self.tokens) >= first).long()
        positions_S = torch.arange(self.tokens) - first * documents_S
        return {
            "documents_BS": documents_S.expand(self.rows, -1).contiguous(),
            "positions_BS": positions_S.expand(self.rows, -1).contiguous(),
        }

    def state(self) -> dict[str, Tensor]:
        torch.manual_seed(self.seed)
        return Transformer(self.config).state_dict()


def single_process(job: Job, recipe: Recipe) -> list[float]:
    """The loss curve of the whole model under `model.training.run.trainer.Trainer`."""
    model = Transformer(job.config)
    model.load_state_dict(job.state())
    model.forward = partial(model.forward, **job.packing())  # type: ignore[method-assign]  # the trainer passes ids only
    trainer = Trainer(model, recipe)
    return [float(trainer.step(job.batch(step))) for step in range(job.steps)]


def on_mesh(job: Job, mesh: Mesh, recipe: Recipe, timeout_s: float) -> list[float]:
    """The loss curve of a parallel trainer; every rank of the world must call it."""
    processes = connect(mesh, timeout_s=timeout_s)
    return _losses(job, trainer_of(job, processes, recipe), processes, range(job.steps))


def moved(job: Job, first: Mesh, second: Mesh, recipe: Recipe, timeout_s: float) -> list[float]:
    """The loss curve of a run whose second half continues from the merged state of the first, on another mesh."""
    half = job.steps // 2
    whole: dict[str, Any] = {}
    losses: list[float] = []
    for mesh, steps in ((first, range(half)), (second, range(half, job.steps))):
        processes = connect(mesh, timeout_s=timeout_s)
        trainer = trainer_of(job, processes, recipe)
        if whole:
            n_chunks = job.chunks_on(mesh)
            trainer.load_training_state(
                cut_training(job.config, whole, mesh, processes.rank, n_chunks=n_chunks)
            )
        losses += _losses(job, trainer, processes, steps)
        states: list[Any] = [None] * mesh.world_size
        dist.all_gather_object(states, trainer.training_state())
        whole = merge_training(job.config, mesh, dict(enumerate(states)))
    return losses


def trainer_of(job: Job, processes: Processes, recipe: Recipe) -> Trained:
    """A trainer with the job's initial weights, DeepSpeed's if the job uses it."""
    if job.zero is not None:
        return ZeroTrainer(
            job.config,
            job.state(),
            processes,
            recipe,
            zero=job.zero,
            n_micro_batches=job.n_micro_batches or 1,
            checkpointing=job.checkpointing,
        )
    return ParallelTrainer(
        job.config,
        job.state(),
        processes,
        recipe,
        n_micro_batches=job.n_micro_batches,
        n_chunks=job.chunks_on(processes.mesh),
        checkpointing=job.checkpointing,
        shards_states=job.shards_states,
        splits_sequence=job.splits_on(processes.mesh),
    )


def _losses(job: Job, trainer: Trained, processes: Processes, steps: range) -> list[float]:
    """Losses of the steps with these numbers, each on this rank's rows."""
    mesh, place, device = processes.mesh, processes.at.dp, own_device()
    packing = {name: own_rows(tensor, mesh, place).to(device) for name, tensor in job.packing().items()}
    return [
        float(trainer.step(own_rows(job.batch(step), mesh, place).to(device), **packing)) for step in steps
    ]


def own_rows(batch_BS: Tensor, mesh: Mesh, place: int) -> Tensor:
    """The rows of one data parallel rank. Raises MeshError where they do not divide evenly."""
    if batch_BS.shape[0] % mesh.dp:
        raise MeshError(f"{batch_BS.shape[0]} rows cannot be spread over dp={mesh.dp}: change --rows")
    return batch_BS.chunk(mesh.dp)[place]


def largest_difference(curve: list[float], reference: list[float]) -> float:
    """Largest relative difference of two loss curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(curve, reference, strict=True))


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        meshes = [Mesh.parse(text) for text in options.mesh]
        job = _job(options)
        _require_possible(options, job, meshes)
        rank, _ = join(timeout_s=options.timeout)
        recipe = Recipe(learning_rate=options.learning_rate, warmup_steps=2, clip_norm=options.clip)
        if options.announce and rank == 0:
            sys.stdout.write("mesh training starts\n")
            sys.stdout.flush()
        if options.move:
            first, second = meshes
            curves = {f"{first} then {second}": moved(job, first, second, recipe, options.timeout)}
        else:
            curves = {str(mesh): on_mesh(job, mesh, recipe, options.timeout) for mesh in meshes}
        reference = single_process(job, recipe)
    except RankMissingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    except (MeshError, ConfigError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        disconnect()
    worst = {name: largest_difference(curve, reference) for name, curve in curves.items()}
    if rank == 0:
        _report(options, job, reference, curves, worst)
    return 0 if max(worst.values()) <= options.tolerance else 1


def _report(
    options: argparse.Namespace,
    job: Job,
    reference: list[float],
    curves: dict[str, list[float]],
    worst: dict[str, float],
) -> None:
    if options.json:
        rows = [
            {"mesh": name, "losses": curve, "largest_difference": worst[name]}
            for name, curve in curves.items()
        ]
        document = {
            "model": job.config.name,
            "tolerance": options.tolerance,
            "single": reference,
            "rows": rows,
        }
        sys.stdout.write(json.dumps(document) + "\n")
        return
    for step, loss in enumerate(reference):
        others = "  ".join(f"{curve[step]:.6f}" for curve in curves.values())
        sys.stdout.write(f"step {step + 1:3d}  single process {loss:.6f}  mesh {others}\n")
    for name, difference in worst.items():
        verdict = "equal" if difference <= options.tolerance else "NOT EQUAL"
        sys.stdout.write(f"{name}: {verdict}, largest relative difference {difference:.2e}\n")


def _job(options: argparse.Namespace) -> Job:
    if options.model in SHAPES or options.model in PRESETS:
        config = SHAPES.get(options.model) or PRESETS[options.model]
    else:
        config = ModelConfig.from_dict(json.loads(Path(options.model).read_text(encoding="utf-8")))
    return Job(
        config=config,
        steps=options.steps,
        rows=options.rows,
        tokens=min(options.tokens, config.max_context),
        seed=options.seed,
        n_micro_batches=options.micro_batches,
        n_chunks=options.chunks,
        checkpointing=options.checkpointing,
        is_packed=options.packed,
        shards_states=options.shard_states,
        zero=None
        if options.zero is None
        else ZeroConfig(options.zero, offload=options.offload, is_bf16=options.bf16),
        splits_sequence=options.sequence,
    )


def _require_possible(options: argparse.Namespace, job: Job, meshes: list[Mesh]) -> None:
    """Raises ValueError and MeshError for options that cannot be combined, before any rank is waited for."""
    for reason in _refusals(options, meshes):
        raise ValueError(reason)
    for mesh in meshes:
        if job.zero is None:
            n_micro_batches = job.n_micro_batches or mesh.pp
            check_schedule(mesh, n_micro_batches=n_micro_batches, n_chunks=job.chunks_on(mesh))


def _refusals(options: argparse.Namespace, meshes: list[Mesh]) -> Iterator[str]:
    for name, number in (("steps", options.steps), ("chunks", options.chunks)):
        if number < 1:
            yield f"--{name} must be at least 1, it is {number}"
    if options.micro_batches is not None and options.micro_batches < 1:
        yield f"--micro-batches must be at least 1, it is {options.micro_batches}"
    yield from _zero_refusals(options)
    if options.zero is not None and any(mesh.pp > 1 for mesh in meshes):
        yield "--zero cannot be used with a pipeline: leave it out, or use pp=1"
    if options.chunks > 1 and all(mesh.pp == 1 for mesh in meshes):
        yield "--chunks needs a pipeline: give a --mesh with pp of at least 2"
    if options.sequence and all(mesh.tp == 1 for mesh in meshes):
        yield "--sequence needs tensor parallelism: give a --mesh with tp of at least 2"
    if options.move and len(meshes) != 2:
        yield f"--move needs two --mesh options, not {len(meshes)}"
    if options.move and options.steps < 2:
        yield "--move trains on both meshes: give at least 2 --steps"


def _zero_refusals(options: argparse.Namespace) -> Iterator[str]:
    """Refusals of DeepSpeed's options without --zero, and of unsupported ones with it."""
    if options.zero is None:
        why, given = "needs --zero: it is DeepSpeed's", {"offload": options.offload, "bf16": options.bf16}
    else:
        why = "cannot be used with --zero: leave one of them out"
        given = {
            "chunks": options.chunks > 1,
            "shard-states": options.shard_states,
            "sequence": options.sequence,
        }
    yield from (f"--{name} {why}" for name, is_given in given.items() if is_given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.parallel.check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mesh", action="append", required=True, help="for example dp=2,tp=2,ep=4,etp=1")
    parser.add_argument("--model", default="small-moe", help=f"{', '.join(SHAPES)}, a preset, or a JSON file")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8, help="sequences per step, over all ranks (default: 8)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens per sequence (default: 16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--micro-batches", type=int, default=None, help="micro-batches per step (default: pp)"
    )
    parser.add_argument(
        "--chunks", type=int, default=1, help="interleaved stages per rank, with pp > 1 (default: 1)"
    )
    parser.add_argument("--checkpointing", choices=("none", "full", "selective"), default="none")
    parser.add_argument("--packed", action="store_true", help="two documents in each row")
    parser.add_argument("--shard-states", action="store_true", help="shard optimiser states over dp (ZeRO 1)")
    parser.add_argument(
        "--sequence", action="store_true", help="split the stream's positions over tp, with tp > 1"
    )
    parser.add_argument("--zero", type=int, help="train dp and ep through DeepSpeed, with this ZeRO stage")
    parser.add_argument("--offload", action="store_true", help="with --zero: optimiser states in host memory")
    parser.add_argument("--bf16", action="store_true", help="with --zero: bf16 weights, fp32 master copy")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradients (default: 1)")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest relative difference of losses (default: 1e-4)"
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds that a wait may take (default: 120)"
    )
    parser.add_argument(
        "--announce", action="store_true", help="print a line on rank 0 when the first mesh starts to train"
    )
    parser.add_argument(
        "--move",
        action="store_true",
        help="train half of the steps on the first mesh and the rest on the second",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on rank 0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
