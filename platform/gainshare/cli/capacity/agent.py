"""`gainshare agent`: runs the node agent of this machine."""

from __future__ import annotations

import os
import sys

import typer

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def agent(context: typer.Context) -> None:
    """Run this machine's node agent, which starts and ends model nodes as the site orders. `--help` lists its options."""
    # A separate program without Django, which replaces this one, so that signals and exit status are its own.
    # -P: a folder of the current directory must not be imported.
    sys.stdout.flush()
    sys.stderr.flush()
    argv = [sys.executable, "-P", "-m", "gainshare.capacity.agent", *context.args]
    os.execv(sys.executable, argv)  # noqa: S606  # a list, without a shell
