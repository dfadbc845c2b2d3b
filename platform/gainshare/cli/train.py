"""`gainshare train`: trains a model as a TOML file says, on this machine."""

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
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, help="Stop when so many steps are done in all; --resume goes on from there."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Train nothing: write the newest checkpoint's model into this folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model. Ctrl-C saves; --resume goes on exactly there.

    Exit status: 0 done, 2 wrong usage or configuration, 3 out of memory, 4 loss not finite, 5 disk full, 6 data unusable,
    7 checkpoint unusable, 8 output in use, 9 another process lost, 130 or 143 interrupted after saving, 1 anything else.
    """
    # -P: a folder `model` where the command is started must not be taken for ours.
    argv = [sys.executable, "-P", "-m", "model.training", str(config)]
    argv += ["--resume"] * resume + ["--json"] * as_json
    argv += ["--steps", str(steps)] if steps is not None else []
    argv += ["--export", str(export)] if export is not None else []
    sys.stdout.flush()
    sys.stderr.flush()
    # A program of its own, since it loads torch; in this one's place, so that signals and exit status are its own.
    os.execv(sys.executable, argv)  # noqa: S606  # a list, and no shell would help
