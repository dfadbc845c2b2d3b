"""`gainshare bench`: runs the judge on your own machine. Its measurements never earn an award."""

import os
import sys
from typing import Annotated

import typer

from gainshare.cli.output import JsonOption


def bench(
    suite: Annotated[str, typer.Option("--suite", help="Suite to run.")] = "moe_forward",
    base: Annotated[
        str, typer.Option("--base", help="Folder or diff of the base tree; the shipped stack by default.")
    ] = "",
    candidate: Annotated[str, typer.Option("--candidate", help="Folder or diff of the candidate.")] = "",
    preset: Annotated[str, typer.Option("--preset", help="Size of the suite: demo or standard.")] = "",
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="gate, confirmation, guard, aa (base against itself), or for a bug reproduction or fix.",
        ),
    ] = "gate",
    reproduction: Annotated[
        str, typer.Option("--reproduction", help="The bug's reproduction, a Python file.")
    ] = "",
    out: Annotated[str, typer.Option("--out", help="Write the evidence to this file.")] = "",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "",
    profile: Annotated[
        str,
        typer.Option(
            "--profile", help="Do not judge; write torch profiles with Chrome traces into this folder."
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Measure a candidate against a base with the platform's own judge, in the same sandbox.

    The judge is a separate program, because it loads torch, and replaces this process.
    """
    options = {
        "--suite": suite,
        "--base": base,
        "--candidate": candidate,
        "--preset": preset,
        "--kind": kind,
        "--reproduction": reproduction,
        "--out": out,
        "--device": device,
        "--profile": profile,
    }
    # -P: folders `benchmarks` and `model` in the current directory must not be imported.
    argv = [sys.executable, "-P", "-m", "benchmarks.bench"]
    argv += [part for name, value in options.items() if value for part in (name, value)]
    argv += ["--json"] * as_json
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, argv)  # noqa: S606  # a list; signals reach the judge, which removes its temporary folders
