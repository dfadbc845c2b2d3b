"""Search all layouts of a model on a number of devices, with a reason for each unusable one. Does not import torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from model.config import ModelConfig
from model.parallel.mesh.mesh import Mesh, MeshError, check_schedule, check_sequence, check_zero, refusals
from model.plan.cluster import Cluster
from model.plan.costs import Estimate, estimate, fullest_memory
from model.plan.layout import Checkpointing, Layout, Workload

ROWS = (1, 2, 4, 8)
CHUNKS = (1, 2, 4)
CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "selective", "full")


@dataclass
class Refused:
    """One reason, the number of layouts that it rules out, and one of them with its numbers."""

    reason: str
    count: int = 0
    example: str = ""


@dataclass
class Plan:
    """The layouts that fit, fastest first, and the reasons against all others."""

    estimates: list[Estimate] = field(default_factory=list)
    refused: dict[str, Refused] = field(default_factory=dict)

    def refuse(self, reason: str, layout: str) -> None:
        kind = re.sub(r"\d[\d.]*", "N", reason)
        entry = self.refused.setdefault(kind, Refused(kind))
        if not entry.count:
            entry.example = f"{layout}: {reason}"
        entry.count += 1


def search(workload: Workload, cluster: Cluster, devices: int, zero_stages: tuple[int, ...] = (1,)) -> Plan:
    """All meshes of exactly `devices` ranks, with all micro-batch sizes, schedules and kinds of checkpointing.

    With tp above one the sequence is tried both split and whole.
    """
    plan = Plan()
    for mesh in meshes(workload.config, devices, cluster.devices_per_node):
        reason = next(refusals(workload.config, mesh), None)
        if reason is not None:
            plan.refuse(reason, str(mesh))
            continue
        for layout in _layouts(mesh, zero_stages):
            reason = refusal(workload, layout)
            if reason is not None:
                plan.refuse(reason, _named(layout))
                continue
            needed = fullest_memory(workload, layout).total
            if needed > cluster.usable_bytes:
                gib, usable = needed / 2**30, cluster.usable_bytes / 2**30
                plan.refuse(f"needs {gib:.1f} GiB on a device with {usable:.1f} GiB usable", _named(layout))
            else:
                plan.estimates.append(estimate(workload, layout, cluster))
    plan.estimates.sort(key=lambda found: found.times.step)
    return plan


def meshes(config: ModelConfig, devices: int, devices_per_node: int) -> Iterator[Mesh]:
    """All meshes of `devices` ranks; tensor parallelism stays within a node, where messages are fast enough."""
    for tp in _divisors(devices):
        if tp > devices_per_node:
            break
        for pp in _divisors(devices // tp):
            dp = devices // tp // pp
            experts = config.moe.n_experts if config.moe is not None and config.n_moe_layers else 1
            for ep in _divisors(dp * tp):
                if ep > experts:
                    break
                if dp % ep == 0:
                    yield Mesh(dp=dp, tp=tp, pp=pp, ep=ep)
                if tp > 1 and ep > 1:
                    yield Mesh(dp=dp, tp=tp, pp=pp, ep=ep, etp=1)


def refusal(workload: Workload, layout: Layout) -> str | None:
    """The reason why a layout on a valid mesh cannot be run; None if it can."""
    mesh = layout.mesh
    if workload.batch % (mesh.dp * layout.rows):
        return f"a batch of {workload.batch} sequences cannot be cut into micro-batches of {layout.rows} on dp={mesh.dp}"
    try:
        check_schedule(mesh, n_micro_batches=layout.micro_batches(workload), n_chunks=layout.n_chunks)
        if layout.zero >= 2:
            check_zero(mesh, layout.zero)
        if layout.splits_sequence:
            check_sequence(mesh)
    except MeshError as error:
        return str(error)
    if layout.n_chunks == 1:
        return None
    if workload.config.n_layers % layout.n_stages:
        return f"{workload.config.n_layers} layers cannot be split into {layout.n_stages} equal interleaved stages"
    return next(refusals(workload.config, mesh, n_chunks=layout.n_chunks), None)


def _layouts(mesh: Mesh, zero_stages: tuple[int, ...]) -> Iterator[Layout]:
    streams = (False, True) if mesh.tp > 1 else (False,)
    for rows, n_chunks, checkpointing, zero, splits_sequence in product(
        ROWS, CHUNKS, CHECKPOINTING, zero_stages, streams
    ):
        yield Layout(mesh, rows, checkpointing, zero, n_chunks, splits_sequence=splits_sequence)


def _named(layout: Layout) -> str:
    named = (
        f"{layout.mesh} rows={layout.rows} chunks={layout.n_chunks} {layout.checkpointing} zero={layout.zero}"
    )
    return f"{named} sequence" if layout.splits_sequence else named


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
