"""`python -m benchmarks.peers train`: optimiser steps of this stack and of transformers, side by side.

Same weights, same batches, packing off, the same optimiser (AdamW with equal groups: torch's fused one there, the stack's
own here) and clipping on both sides, one thread on one core. Transformers computes experts by whichever of its implementations is fastest on the
batch's shape. Each side keeps its own weights from step to step, so equal losses after several steps say that gradients
and updates are equal too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pairs.cores import choose_cores, judge_on
from benchmarks.peers.environments import PEERS, interpreter, set_up
from benchmarks.peers.machine import Machine
from benchmarks.peers.making import make_models
from benchmarks.peers.models import QWEN3_MOE_22M, QWEN3_MOE_186M, PeerModel, peers_home, random_model
from benchmarks.peers.quartiles import Quartiles, ratios
from benchmarks.peers.roofline import training_flops
from benchmarks.peers.side import Side, driver
from benchmarks.peers.turns import Answer, Budget, take_turns
from benchmarks.report import MeasuringFailed, Row, say, shown
from model.config import ModelConfig

TARGET = 2.0  # times the tokens per second of transformers
LOAD_S, STEP_S, CHOOSE_S = 300.0, 300.0, 600.0
# Two right steps differ by rounding, which grows from step to step.
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
OURS, THEIRS = "ours", "transformers"
TRANSFORMERS = PEERS[THEIRS]


@dataclass(frozen=True)
class Cell:
    """One shape in one number format."""

    config: ModelConfig
    n_rows: int
    row_tokens: int
    precision: str

    @property
    def name(self) -> str:
        return f"{self.config.name}, {self.n_rows} x {self.row_tokens} tokens, {self.precision}"

    @property
    def n_tokens(self) -> int:
        return self.n_rows * self.row_tokens


QUICK = tuple(
    Cell(config, *shape, precision)
    for config, shape in ((QWEN3_MOE_22M, (4, 256)), (QWEN3_MOE_186M, (2, 256)))
    for precision in ("fp32", "bf16")
)
FULL = tuple(
    Cell(config, *shape, precision)
    for config, shape in ((QWEN3_MOE_22M, (4, 512)), (QWEN3_MOE_22M, (16, 128)), (QWEN3_MOE_186M, (4, 512)))
    for precision in ("fp32", "bf16")
)
QUICK_S, FULL_S = 140.0, 480.0  # for all rounds of all cells, without the loading


def measure(*, quick: bool, setup: bool = False) -> list[Row]:
    """Rows of all cells. Raises MeasuringFailed where a side cannot be measured, or transformers is not there."""
    cells = QUICK if quick else FULL
    home, cores = peers_home(), choose_cores()
    python = set_up(TRANSFORMERS, home, say) if setup else their_python(home)
    configs = list({cell.config.name: cell.config for cell in cells}.values())
    models = {config.name: random_model(config, home) for config in configs}
    make_models(models.values(), ggufs=(), home=home, say=say)
    rows: list[Row] = []
    seconds = (QUICK_S if quick else FULL_S) / len(cells)
    with judge_on(cores.judge), Machine(core=cores.measuring, home=home) as machine:
        for cell in cells:
            say(cell.name)
            model = models[cell.config.name]
            rows += _cell(cell, model, machine, python, seconds=seconds, core=cores.measuring, home=home)
    return rows


def their_python(home: Path) -> Path:
    """The Python that has transformers: this one, or that of its environment below `home`. Raises MeasuringFailed."""
    python = interpreter(TRANSFORMERS, home)
    if python is None:
        raise MeasuringFailed(
            "there is nothing to compare with: transformers is neither installed here nor set up below "
            f"{home}. `python -m benchmarks.peers train --setup` sets it up in a separate environment and measures"
        )
    return python


def _cell(
    cell: Cell, model: PeerModel, machine: Machine, python: Path, *, seconds: float, core: int, home: Path
) -> list[Row]:
    shape = {"n_rows": cell.n_rows, "row_tokens": cell.row_tokens}
    budget = Budget(seconds, least=2, most=8)
    order = random.Random(cell.name)
    peak = machine.gemm(DTYPES[cell.precision])
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                Side(
                    name,
                    argv=argv,
                    core=core,
                    log=home / "logs" / f"train-{name}.log",
                )
            )
            for name, argv in drivers(python).items()
        }
        loaded = {}
        for name, side in sides.items():
            loaded[name] = side.ask("load", timeout_s=LOAD_S, folder=str(model.hf), precision=cell.precision)
            if name == THEIRS:
                loaded[name] |= side.ask("choose", timeout_s=CHOOSE_S, **shape, seed="choose")
            side.freeze()
        answers = take_turns(
            sides,
            ["step"],
            lambda name, task, number: sides[name].ask(
                task, timeout_s=STEP_S, **shape, seed=f"step {number}"
            ),
            budget=budget,
            order=order,
            say=say,
        )["step"]
    if not all(answers.values()):
        raise MeasuringFailed(f"{cell.name}: a side failed; see the messages above and {home / 'logs'}")
    peak = max(peak, machine.gemm(DTYPES[cell.precision]))
    return rows_of(cell, answers, loaded[THEIRS], peak)


def drivers(python: Path) -> dict[str, list[str]]:
    """Both sides' command lines: ours under this Python, transformers' under `python`."""
    return {OURS: driver("ours_train"), THEIRS: driver("transformers_train", python)}


def rows_of(cell: Cell, answers: dict[str, list[Answer]], theirs: Answer, peak: float) -> list[Row]:
    """The ratio, both speeds with their share of the roofline, and whether the losses were equal."""
    speeds = {
        name: [cell.n_tokens / (answer["ns"] / 1e9) for answer in taken] for name, taken in answers.items()
    }
    ratio = ratios(speeds[OURS], speeds[THEIRS])
    flops = training_flops(cell.config, cell.n_rows, cell.row_tokens) / cell.n_tokens
    tried = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in theirs["seconds"].items())
    refused = "".join(f"; {name}: {why}" for name, why in theirs["refused"].items())
    rows = [
        Row(
            f"train, ours over transformers: {cell.name}",
            round(ratio.median, 2),
            "x",
            f">= {TARGET:g}x",
            ratio.median >= TARGET,
            f"tokens per second, pairs of steps: {ratio.text()}; freed memory kept on both sides; transformers "
            f"{theirs['transformers']} with {theirs['chosen']} experts (forward and backward: {tried}{refused})",
        )
    ]
    for name, values in speeds.items():
        speed = Quartiles.of(values)
        share = speed.median * flops / peak
        rows.append(
            Row(
                f"train, {name}: {cell.name}",
                round(speed.median, 1),
                "tokens/s",
                None,
                None,
                f"{speed.text()}; {100 * share:.0f} % of the roofline of {peak / 1e9:.0f} GFLOP/s: "
                f"{flops / 1e6:.0f} MFLOP a token = 6 x active parameters + attention",
            )
        )
    return [*rows, _losses(cell, answers)]


def _losses(cell: Cell, answers: dict[str, list[Answer]]) -> Row:
    pairs: Sequence[tuple[float, float]] = [
        (ours["loss"], theirs["loss"]) for ours, theirs in zip(answers[OURS], answers[THEIRS], strict=True)
    ]
    worst = max(abs(ours - theirs) for ours, theirs in pairs)
    allowed = LOSS_TOLERANCE[cell.precision]
    return Row(
        f"train, losses apart: {cell.name}",
        worst,
        "nats",
        f"<= {shown(allowed)}",
        worst <= allowed,
        f"most of {len(pairs)} steps behind a first one, each on its own batch; the last: "
        f"{pairs[-1][0]:.5f} and {pairs[-1][1]:.5f}",
    )
