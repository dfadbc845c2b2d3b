"""Measure the loop and print one report. See the package for what is measured."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import command_line, ends_plainly
from benchmarks.loop.gateway import gateway_row
from benchmarks.loop.imports import import_rows
from benchmarks.loop.judging import judging_rows
from benchmarks.loop.noise import noise_rows
from benchmarks.report import Report, Row
from model.command_errors import CommandParser

PARTS = ("imports", "gateway", "noise", "judging")


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer requests and pairs, for a first look")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    rows = _measure(chosen.parts or PARTS, quick=chosen.quick)
    Report.here(command_line(parser.prog, arguments), rows).show(as_json=chosen.json)
    return 0


def _measure(parts: tuple[str, ...], *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    if "imports" in parts:
        rows += import_rows()
    if "noise" in parts:
        rows += noise_rows(quick=quick)
    if "gateway" in parts:
        folder = Path(tempfile.mkdtemp(prefix="gainshare-loop-"))
        folder.chmod(0o711)  # the database's own user passes through
        try:
            env = {**os.environ, "GAINSHARE_HOME": str(folder / "home")}
            rows.append(gateway_row(env, port=free_port(), requests=20 if quick else 100))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if "judging" in parts:
        rows += judging_rows(dict(os.environ))
    return rows


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
