"""`gainshare simulate` as a program of its own: its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.report import MeasuringFailed, Row

PROGRAM = (sys.executable, "-P", "-m", "gainshare.cli.main", "simulate")


def simulated(arguments: Sequence[str], *, is_told: bool = False) -> list[Row]:
    """Rows that the command prints with --json; its progress goes to standard error where ``is_told``.

    Raises MeasuringFailed with its reason.
    """
    done = subprocess.run(
        [*PROGRAM, *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=None if is_told else subprocess.DEVNULL,
        text=True,
        check=False,
    )
    try:
        document = json.loads(done.stdout)
    except ValueError:
        raise MeasuringFailed(
            f"gainshare simulate ended with status {done.returncode} and without figures"
        ) from None
    if "error" in document:
        raise MeasuringFailed(f"gainshare simulate: {document['error']['message']}")
    return [Row(**row) for row in document["rows"]]
