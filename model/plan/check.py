"""Compare the planner's formulas with a running job: bytes per axis, bytes kept for the backward pass, and all memory.

    torchrun --standalone --nproc-per-node 2 -m model.plan.check --mesh tp=2 --mesh dp=2,ep=2 --mesh pp=2 --json

Each mesh trains a small model for two steps; the messages of the second are counted on every rank and added up. With
`--sequence` the stream's positions are split over tp. Activations are measured in one forward pass of each rank's stages;
the peak of all tensors in a second step, in fp32 and in bf16, on the pipeline stage that is furthest from its plan.
Exit 0 where all are within the tolerance, 1 where one is not, 2 for input that cannot be run, 3 where a rank is missing
or lost.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from model.config import ConfigError, ModelConfig, MoEConfig
from model.layers.watched import torch_instead
from model.parallel.lean_stage import KEEPS_OUTPUTS
from model.parallel.mesh.mesh import Mesh, MeshError
from model.parallel.mesh.processes import Processes, RankMissingError, connect, disconnect, join
from model.parallel.trainer import ParallelTrainer
from model.plan.activations import stage_activations
from model.plan.costs import rank_memory
from model.plan.layout import PRECISIONS, Checkpointing, Layout, Workload
from model.plan.measure import LiveBytes, counted_messages, kept_by
from model.plan.traffic import step_traffic
from model.training.losses.cross_entropy import next_token_targets
from model.transformer import Transformer

TOKENS = 64
ROWS = 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of blocks
MODEL = ModelConfig(
    name="plan-check",
    vocab_size=256,
    d_model=128,
    n_layers=4,
    n_heads=8,
    n_kv_heads=4,
    d_head=16,
    d_ff=320,
    max_context=TOKENS,
    moe=MoEConfig(d_model=128, d_expert=64, n_experts=8, top_k=2, n_shared=1),
    first_moe_layer=1,
)


def compare(
    mesh: Mesh, checkpointing: Checkpointing, timeout_s: float, *, splits_sequence: bool = False
) -> list[dict[str, Any]]:
    """One row per axis with its bytes, counted and predicted, over all ranks; one for activations; two of peaks."""
    processes = connect(mesh, timeout_s=timeout_s)
    n_micro = 2 * mesh.pp  # no gradients exist while the first micro-batches fill the pipeline
    workload = Workload(MODEL, TOKENS, mesh.dp * n_micro * ROWS, PRECISIONS["fp32"])
    layout = Layout(
        mesh,
        ROWS,
        checkpointing,
        has_kernels=False,
        keeps_outputs=KEEPS_OUTPUTS,
        splits_sequence=splits_sequence,
    )
    torch.manual_seed(0)
    state = Transformer(MODEL).state_dict()
    trainer = ParallelTrainer(
        MODEL,
        state,
        processes,
        n_micro_batches=n_micro,
        checkpointing=checkpointing,
        shards_states=True,
        splits_sequence=splits_sequence,
    )
    tokens_BS = _batch(n_micro * ROWS, seed=processes.at.dp)
    trainer.step(tokens_BS)
    with counted_messages(processes) as messages:
        trainer.step(tokens_BS)
    predicted = step_traffic(workload, layout, processes.at.pp)
    rows = [
        _row(f"{axis} bytes", layout, counted, predicted_bytes)
        for axis, counted, predicted_bytes in _over_ranks(messages.bytes, predicted)
    ]
    with torch_instead():  # the formulas count what torch's operations save; our kernels save less
        rows.append(_row("activations", layout, *_activations(trainer, workload, layout, processes)))
        for name in DTYPES:
            in_precision = replace(workload, precision=PRECISIONS[name])
            peaks = _peaks(in_precision, layout, processes, state)
            rows.append(_row(f"peak {name}", layout, *peaks))
    return rows


def step_peak(
    workload: Workload, layout: Layout, processes: Processes, state: Mapping[str, torch.Tensor]
) -> int:
    """Peak bytes of all tensors of a rank in a training step, states included; all ranks must call it."""
    n_micro = layout.micro_batches(workload)
    tokens_BS = _batch(n_micro * layout.rows, seed=processes.at.dp)
    with LiveBytes() as live:
        trainer = ParallelTrainer(
            workload.config,
            state,
            processes,
            n_micro_batches=n_micro,
            block_dtype=DTYPES[workload.precision.name],
            checkpointing=layout.checkpointing,
            shards_states=layout.zero == 1,
            splits_sequence=layout.splits_sequence,
        )
        trainer.step(tokens_BS)  # makes the optimiser's states
        live.peak = live.now
        trainer.step(tokens_BS)
    return int(live.peak)


def _peaks(
    workload: Workload, layout: Layout, processes: Processes, state: Mapping[str, torch.Tensor]
) -> tuple[float, float]:
    """Peaks, summed over the ranks of the pipeline stage where they differ most: over ep only the sum is even."""
    measured = step_peak(workload, layout, processes, state)
    figures: list[Any] = [None] * dist.get_world_size()
    pp = processes.at.pp
    dist.all_gather_object(figures, (pp, measured, rank_memory(workload, layout, pp).total))
    measured_at, planned_at = Counter[int](), Counter[int]()
    for at, kept, planned in figures:
        measured_at[at] += kept
        planned_at[at] += planned
    sums = [(float(measured_at[at]), float(planned_at[at])) for at in measured_at]
    return max(sums, key=lambda pair: abs(pair[1] / pair[0] - 1))


def _activations(
    trainer: ParallelTrainer, workload: Workload, layout: Layout, processes: Processes
) -> tuple[float, float]:
    """Bytes that the stages of all ranks keep for one micro-batch, measured and predicted."""
    totals = torch.zeros(2, dtype=torch.float64)
    for stage in trainer.stages:
        tokens_BS = _batch(ROWS, seed=7)
        x = tokens_BS
        if not stage.is_first:
            x = torch.randn(stage.stream_shape(ROWS, TOKENS), requires_grad=True)
        targets_BS = next_token_targets(tokens_BS)
        stage(x, targets_BS=targets_BS)  # caches the rotation tables
        y, kept = kept_by(lambda x=x, stage=stage, targets=targets_BS: stage(x, targets_BS=targets))  # type: ignore[misc]
        # the input is kept too: ids, or another stage's stream
        totals[0] += kept + x.numel() * x.element_size()
        if not (stage.is_last or layout.keeps_outputs):
            totals[0] -= y.numel() * y.element_size()
        totals[1] += stage_activations(workload, layout, stage.index)
        y.sum().backward()  # type: ignore[no-untyped-call]  # ranks must take part in each other's backward collectives
        trainer.optimizer.zero_grad()
    dist.all_reduce(totals)
    return float(totals[0]), float(totals[1])


def _over_ranks(counted: Counter[str], predicted: Counter[str]) -> list[tuple[str, int, int]]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (counted, predicted))
    measured, predicted_bytes = Counter[str](), Counter[str]()
    for one, other in gathered:
        measured, predicted_bytes = measured + one, predicted_bytes + other
    return [
        (axis, measured[axis], predicted_bytes[axis])
        for axis in sorted(set(predicted_bytes) | (set(measured) - {"world"}))
    ]


def _row(name: str, layout: Layout, measured: float, predicted: float) -> dict[str, Any]:
    off = abs(predicted - measured) / max(measured, 1)
    return {
        "name": name,
        "mesh": str(layout.mesh),
        "checkpointing": layout.checkpointing,
        "splits_sequence": layout.splits_sequence,
        "measured": measured,
        "predicted": predicted,
        "off": off,
    }


def _batch(rows: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(MODEL.vocab_size, (rows, TOKENS), generator=rng)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        meshes = [Mesh.parse(text) for text in options.mesh]
        rank, _ = join(timeout_s=options.timeout)
        rows = [
            row
            for mesh in meshes
            for checkpointing in options.checkpointing or ["none"]
            for row in compare(mesh, checkpointing, options.timeout, splits_sequence=options.sequence)
        ]
    except RankMissingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    except (MeshError, ConfigError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        disconnect()
    if rank == 0:
        _report(rows, options)
    return 0 if all(row["off"] <= options.tolerance for row in rows) else 1


def _report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        sys.stdout.write(json.dumps({"tolerance": options.tolerance, "rows": rows}) + "\n")
        return
    for row in rows:
        verdict = "ok" if row["off"] <= options.tolerance else "OFF"
        sys.stdout.write(
            f"{row['mesh']:24} {row['checkpointing']:10} {row['name']:12} measured {row['measured']:12.0f} "
            f"predicted {row['predicted']:12.0f}  {row['off']:.2%} {verdict}\n"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.plan.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--mesh", action="append", required=True, help="for example dp=2,ep=2, or dp=2,tp=2,ep=4,etp=1"
    )
    parser.add_argument("--checkpointing", action="append", choices=("none", "full", "selective"))
    parser.add_argument("--sequence", action="store_true", help="split the stream's positions over tp")
    parser.add_argument(
        "--tolerance", type=float, default=0.05, help="largest relative difference (default: 0.05)"
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds that a wait may take (default: 120)"
    )
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
