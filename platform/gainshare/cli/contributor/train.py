"""`gainshare train`: trains a model on this machine, as configured in a TOML file."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gainshare.cli.output import JsonOption


def train(
    config: Annotated[
        Path, typer.Argument(help="The run's file; docs/reference/training.md describes its keys.")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest checkpoint.")] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, help="Stop after this total number of steps; --resume continues from there."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Do not train; write the newest checkpoint's model into this folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model. Ctrl-C saves a checkpoint; --resume continues exactly there.

    Where the file names no precision, or auto, the run chooses when it starts: on a CPU bf16 or fp32 by the rates of
    products, measured in a fraction of a second; on CUDA bf16, or fp16 where the GPU has no bf16. The first line of the
    progress says which, and why. A resumed run keeps its precision.

    Exit status: 0 done, 2 wrong usage or configuration, 3 out of memory, 4 loss not finite, 5 disk full, 6 data unusable,
    7 checkpoint unusable, 8 output in use, 9 another process lost, 130 or 143 interrupted after saving, 1 anything else.
    """
    # -P: a folder `model` in the current directory must not be imported.
    argv = [sys.executable, "-P", "-m", "model.training", str(config)]
    argv += ["--resume"] * resume + ["--json"] * as_json
    argv += ["--steps", str(steps)] if steps is not None else []
    argv += ["--export", str(export)] if export is not None else []
    sys.stdout.flush()
    sys.stderr.flush()
    # A separate program, because it loads torch. It replaces this process, so that signals and exit status
    # are its own.
    os.execv(sys.executable, argv)  # noqa: S606  # a list, without a shell
