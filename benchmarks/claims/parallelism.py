"""Pipeline x tensor x expert parallel training gives the loss curve of one process, and a plan for 1e12 parameters fits.

Ranks are processes of this machine over gloo. The plan is computed from a described cluster of 256 devices, and says so;
its parameters are counted on real shards on torch's meta device for a sample of ranks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims.bench import Bench, Job, Result
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.parent import end_with_parent
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.report import Row

TOLERANCE = 1e-4  # relative difference of losses
PARAMETERS, DEVICES = 1e12, 256
TIMEOUT_S = 900

# Each axis with each other on 4 ranks; all three at once on 8.
MESHES: dict[Scale, dict[int, tuple[str, ...]]] = {
    "quick": {4: ("tp=2,pp=2", "ep=2,dp=2,pp=2", "tp=2,ep=2,dp=2")},
    "full": {4: ("tp=2,pp=2", "ep=2,dp=2,pp=2", "tp=2,ep=2,dp=2"), 8: ("dp=2,tp=2,pp=2,ep=2",)},
}
STEPS: dict[Scale, int] = {"quick": 8, "full": 30}


def work(settings: dict[str, Any], made: Path) -> Result:
    """`curves`: what `model.parallel.check` found on each number of ranks; or `plan`: what `model.plan` found."""
    if "plan" in settings:
        return {"plan": _answer([sys.executable, "-m", "model.plan", *settings["plan"]])}
    curves = {}
    for ranks, meshes in settings["meshes"].items():
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
        command += ["-m", "model.parallel.check", "--json", "--steps", str(settings["steps"])]
        command += ["--tolerance", str(TOLERANCE)]
        curves[ranks] = _answer([*command, *(part for mesh in meshes for part in ("--mesh", mesh))])
    return {"curves": curves}


def _answer(command: list[str]) -> Any:
    """The JSON that a command prints; status 1 says that something does not hold, which is a result too."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),  # on which torchrun ends its ranks
    )
    begin = done.stdout.find("{")
    if done.returncode not in (0, 1) or begin < 0:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout[begin:])


def measure(bench: Bench, scale: Scale) -> Measured:
    meshes = {str(ranks): list(of_ranks) for ranks, of_ranks in MESHES[scale].items()}
    curves = bench.one(
        Job("parallelism", {"meshes": meshes, "steps": STEPS[scale]}), "parallelism: loss curves"
    )["curves"]
    arguments = ["--params", f"{PARAMETERS:g}", "--devices", str(DEVICES), "--top", "1", "--json", "--verify"]
    plan = bench.one(Job("parallelism", {"plan": arguments}), "parallelism: plan")["plan"]
    rows = [*curve_rows(curves, scale), *plan_rows(plan)]
    return Measured(rows, [_figure(curves)])


def curve_rows(curves: Mapping[str, Mapping[str, Any]], scale: Scale) -> list[Row]:
    return [
        Row(
            f"parallel training: loss curve of {row['mesh']} against one process",
            float(f"{row['largest_difference']:.2e}"),
            "relative",
            f"equal: at most {TOLERANCE:g}",
            row["largest_difference"] <= TOLERANCE,
            f"{len(row['losses'])} steps of {found['model']} on {ranks} gloo ranks of this machine, the largest "
            f"difference of any step; {SAYS[scale]}",
        )
        for ranks, found in curves.items()
        for row in found["rows"]
    ]


def plan_rows(plan: Mapping[str, Any]) -> list[Row]:
    """Check that a layout fits, and that the shards of some ranks have as many parameters as the formulas say."""
    if not plan["rows"]:
        refused = "; ".join(entry["example"] for entry in plan["refused"][:3])
        return [_plan_row("no layout fits", "", False, f"computed, not measured; refused: {refused}")]
    best, verified = plan["rows"][0], plan["verified"]
    layout = " ".join(f"{axis}={best[axis]}" for axis in ("pp", "tp", "ep", "etp", "dp"))
    stream = "the sequence split over tp" if best["splits_sequence"] else "whole sequences"
    memory = best["memory_bytes"] / 2**30
    how = (
        f"computed from the description of {plan['cluster']['name']}, not measured: {plan['parameters']:.3g} parameters, "
        f"{plan['n_fitting']} layouts fit, the fastest is {layout}, {stream}, ZeRO {best['zero']}, checkpointing "
        f"{best['checkpointing']}; step {best['step_s']:.1f} s, {best['ep_s']:.1f} s of it exchanges between experts, bubble "
        f"{best['bubble_share']:.1%}, MFU {best['mfu']:.1%}; etp is how many ranks split an expert; both were tried, of the sequence too"
    )
    is_counted = bool(verified) and all(row["counted"] == row["formula"] for row in verified)
    ranks = ", ".join(str(row["rank"]) for row in verified)
    return [
        _plan_row(round(memory, 1), "GiB per device", True, how),
        Row(
            "planner: parameters of real shards against the formulas",
            "equal" if is_counted else "not equal",
            "",
            "equal",
            is_counted,
            f"ranks {ranks} of the best layout made on torch's meta device",
        ),
    ]


def _plan_row(value: float | str, unit: str, holds: bool, how: str) -> Row:
    return Row(f"planner: {PARAMETERS:g} parameters on {DEVICES} devices", value, unit, "fits", holds, how)


def _figure(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    found = curves[max(curves, key=int)]
    lines = {"one process": found["single"], **{row["mesh"]: row["losses"] for row in found["rows"]}}
    return Figure(
        "Loss of meshes and of one process",
        "step",
        "nats",
        [Curve(name, [float(step) for step in range(len(losses))], losses) for name, losses in lines.items()],
    )


CLAIM = Claim(
    "parallelism",
    "Pipeline, tensor and expert parallel training equals one process, and 1e12 parameters fit on 256 devices",
    measure,
)
