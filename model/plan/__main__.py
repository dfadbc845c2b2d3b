"""`python -m model.plan`: the best layouts of a model on a cluster, and why others cannot be used.

    python -m model.plan --params 1e12 --devices 256
    python -m model.plan --config shape.json --devices 64 --cluster my-cluster.toml --json

A layout with etp 1 has whole experts, spread over the ranks of tp and dp; else etp is tp, and the ranks of tp have a
part of each expert's width. With seq the residual stream's positions are split over tp.

Every figure is computed from the cluster's description, not measured, except with `--verify`, which makes the shards of
a few ranks on torch's meta device and compares their parameters with the formulas. Exit 0 where a layout fits, 1 where
none does or a check fails, 2 for input that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from model.config import ConfigError
from model.plan.cluster import Cluster, ClusterError, read_cluster, shipped
from model.plan.costs import Estimate, bubble_share
from model.plan.layout import PRECISIONS, Workload
from model.plan.search import Plan, search
from model.plan.shapes import model_of
from model.plan.sizes import rank_parameters
from model.presets import PRESETS, named_config

GIB = 2**30
COLUMNS = (
    ("pp", 3),
    ("tp", 3),
    ("ep", 3),
    ("etp", 3),
    ("seq", 3),
    ("dp", 3),
    ("rows", 4),
    ("chunks", 6),
    ("zero", 4),
    ("checkpoint", 10),
    ("GiB", 6),
    ("weights", 7),
    ("grads", 6),
    ("states", 6),
    ("activ.", 6),
    ("step s", 7),
    ("tp s", 6),
    ("ep s", 6),
    ("pp s", 6),
    ("dp s", 6),
    ("bubble", 6),
    ("tok/s", 8),
    ("MFU", 5),
)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        workload, cluster = _workload(options), read_cluster(options.cluster)
        plan = search(workload, cluster, options.devices, tuple(options.zero or (1,)))
    except (ConfigError, ClusterError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    checked = _verify(workload, plan) if options.verify and plan.estimates else []
    if options.json:
        document = _document(options, workload, cluster, plan, checked)
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        _print(options, workload, cluster, plan, checked)
    holds = all(row["counted"] == row["formula"] for row in checked)
    return 0 if plan.estimates and holds else 1


def row_of(found: Estimate) -> dict[str, Any]:
    """A layout as a flat JSON object: sizes in bytes, times in seconds, shares between 0 and 1."""
    layout, memory, times = found.layout, found.memory, found.times
    return {
        **asdict(layout.mesh),
        "etp": layout.mesh.etp or layout.mesh.tp,
        "rows_per_micro_batch": layout.rows,
        "chunks": layout.n_chunks,
        "splits_sequence": layout.splits_sequence,
        "zero": layout.zero,
        "checkpointing": layout.checkpointing,
        "memory_bytes": memory.total,
        **{f"{name}_bytes": value for name, value in asdict(memory).items()},
        "step_s": times.step,
        **{f"{name}_s": value for name, value in asdict(times).items()},
        "bubble_share": bubble_share(times),
        "tokens_per_s": found.tokens_per_s,
        "mfu": found.mfu,
    }


def _workload(options: argparse.Namespace) -> Workload:
    config = model_of(options.params) if options.config is None else named_config(options.config)
    if options.devices < 1 or options.batch < 1 or not 1 <= options.tokens <= config.max_context:
        raise ConfigError(
            f"--devices and --batch must be at least 1, --tokens between 1 and {config.max_context}"
        )
    return Workload(config, options.tokens, options.batch, PRECISIONS[options.precision])


def _verify(workload: Workload, plan: Plan) -> list[dict[str, Any]]:
    """Compare counted parameters with the formula's, for the first, middle and last rank of the best layout."""
    from model.plan.measure import shard_parameters

    layout = plan.estimates[0].layout
    mesh = layout.mesh
    rows = []
    for rank in sorted({0, mesh.world_size // 2, mesh.world_size - 1}):
        formula = rank_parameters(workload.config, mesh, mesh.coordinates(rank).pp, layout.n_chunks)
        counted = shard_parameters(workload.config, mesh, rank, layout.n_chunks)
        rows.append({"rank": rank, "counted": asdict(counted), "formula": asdict(formula)})
    return rows


def _document(
    options: argparse.Namespace,
    workload: Workload,
    cluster: Cluster,
    plan: Plan,
    checked: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "command": "python -m model.plan",
        "model": workload.config.to_dict(),
        "parameters": workload.config.total_parameters,
        "active_parameters": workload.config.active_parameters,
        "devices": options.devices,
        "tokens": workload.tokens,
        "batch": workload.batch,
        "precision": asdict(workload.precision),
        "cluster": asdict(cluster),
        "n_fitting": len(plan.estimates),
        "rows": [row_of(found) for found in plan.estimates[: options.top]],
        "refused": [asdict(entry) for entry in plan.refused.values()],
        "verified": checked,
    }


def _print(
    options: argparse.Namespace,
    workload: Workload,
    cluster: Cluster,
    plan: Plan,
    checked: list[dict[str, Any]],
) -> None:
    config, write = workload.config, sys.stdout.write
    write(
        f"{config.name}: {config.total_parameters:.4g} parameters, {config.active_parameters:.3g} active; "
        f"{workload.batch} sequences of {workload.tokens} tokens per step, {workload.precision.name}\n"
        f"{options.devices} devices of {cluster.name}, {cluster.usable_bytes / GIB:.1f} GiB usable each "
        f"({cluster.source}); computed, not measured\n\n"
    )
    write(" ".join(f"{name:>{width}}" for name, width in COLUMNS) + "\n")
    for found in plan.estimates[: options.top]:
        cells = zip(COLUMNS, _cells(found), strict=True)
        write(" ".join(f"{cell:>{width}}" for (_, width), cell in cells) + "\n")
    if not plan.estimates:
        write("no layout fits\n")
    write(f"\n{len(plan.estimates)} layouts fit. Refused:\n")
    for entry in sorted(plan.refused.values(), key=lambda entry: -entry.count):
        write(f"  {entry.count:6d}  {entry.example}\n")
    for row in checked:
        verdict = (
            "equal" if row["counted"] == row["formula"] else f"NOT EQUAL to the formula {row['formula']}"
        )
        write(f"rank {row['rank']}: parameters of the shard on the meta device {row['counted']}: {verdict}\n")


def _cells(found: Estimate) -> tuple[str, ...]:
    layout, memory, times = found.layout, found.memory, found.times
    mesh = layout.mesh
    degrees = (
        mesh.pp,
        mesh.tp,
        mesh.ep,
        mesh.etp or mesh.tp,
        "yes" if layout.splits_sequence else "no",
        mesh.dp,
        layout.rows,
        layout.n_chunks,
        layout.zero,
    )
    gib = (
        memory.total,
        memory.weights,
        memory.gradients,
        memory.optimiser,
        memory.activations + memory.working,
    )
    seconds = (times.tp, times.ep, times.pp, times.dp)
    return (
        *map(str, degrees),
        layout.checkpointing,
        *(f"{value / GIB:.1f}" for value in gib),
        f"{times.step:.2f}",
        *(f"{value:.2f}" for value in seconds),
        f"{bubble_share(times):.1%}",
        f"{found.tokens_per_s:.3g}",
        f"{found.mfu:.1%}",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shape = parser.add_mutually_exclusive_group(required=True)
    shape.add_argument(
        "--params", type=float, help="plan a shape of about this many parameters, at least 1e9"
    )
    shape.add_argument(
        "--config", help=f"{', '.join(PRESETS)}, or a JSON file of a model configuration or a model folder's"
    )
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--cluster", default="h100-80gb", help=f"{', '.join(shipped())}, or a TOML file")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per sequence (default: 4096)")
    parser.add_argument(
        "--batch", type=int, default=1024, help="sequences per optimiser step (default: 1024)"
    )
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="bf16",
        help="auto: memory for fp32 as well as bf16, for a run that chooses when it starts (default: bf16)",
    )
    parser.add_argument(
        "--zero",
        type=int,
        action="append",
        choices=(0, 1, 2, 3),
        help="ZeRO stage to try; may be repeated (default: 1)",
    )
    parser.add_argument("--top", type=int, default=10, help="number of layouts to print (default: 10)")
    parser.add_argument(
        "--verify", action="store_true", help="compare with the parameters of real shards (imports torch)"
    )
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
