"""Measure the stack's claims and print one report. See the package for what is measured.

Progress is on standard error. Results are kept in the output folder, so that a run that was killed continues where it was.
Exit 0 where all that was asked for could be measured, whether it holds or not; 1 where something could not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Claim, Measured
from benchmarks.claims.document import record_file, write_document
from benchmarks.claims.record import Entry, RecordError, read_record
from benchmarks.claims.registry import CLAIMS
from benchmarks.claims.scale import Scale
from benchmarks.commands import check_writable, ends_plainly
from benchmarks.report import MeasuringFailed, Report, Row
from model.command_errors import CommandParser
from model.parallel.placement.device_model import DeviceModelError, read_device_model

OUTPUT = Path("build/claims")
DOCS = Path("docs/lab")


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(CLAIMS):
        parser.error(f"unknown claim {', '.join(sorted(unknown))}: choose of {', '.join(CLAIMS)}")
    scale: Scale = "quick" if options.quick else "full"
    chosen = [claim for name, claim in CLAIMS.items() if name in options.names or not options.names]
    docs = options.docs or (DOCS if scale == "full" and not options.names else None)
    try:
        _check_files(options.output, docs, options.device_model)
    except (RecordError, DeviceModelError, OSError) as error:
        parser.error(str(error))
    bench = Bench(options.output, device_models=tuple(options.device_model), traces=tuple(options.trace))
    try:
        measured = {claim: _measure(claim, bench, scale) for claim in chosen}
    except KeyboardInterrupt:
        bench.say(f"results so far are kept in {options.output}: the same command continues from there")
        raise
    rows = [
        row
        for claim, found in measured.items()
        for row in (found.rows if isinstance(found, Measured) else [_failed(claim, found)])
    ]
    traces = [word for path in options.trace for word in ("--trace", str(path))]
    command = " ".join(["python -m benchmarks.claims", f"--{scale}", *options.names, *traces])
    report = Report.here(command, rows)
    if bench.has_changed:
        bench.say(
            "warning: the stack's source changed meanwhile: the figures come from more than one state of it"
        )
    if docs is not None:
        entries = {
            claim.name: Entry.of(report, found, scale=scale, has_changed=bench.has_changed)
            for claim, found in measured.items()
            if isinstance(found, Measured)
        }
        bench.say(f"wrote {write_document(docs, list(CLAIMS.values()), entries)}")
    report.show(as_json=options.json)
    return 0 if all(isinstance(found, Measured) for found in measured.values()) else 1


def _check_files(output: Path, docs: Path | None, device_models: Sequence[Path]) -> None:
    """Check outputs and device models before the hours of measuring. Raises OSError, RecordError or DeviceModelError."""
    folders = [output] if docs is None else [output, record_file(docs).parent]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    if docs is not None:
        read_record(record_file(docs))
    for file in device_models:
        read_device_model(file)


def _measure(claim: Claim, bench: Bench, scale: Scale) -> Measured | MeasuringFailed:
    begun = time.monotonic()
    try:
        found = claim.measure(bench, scale)
    except MeasuringFailed as error:
        bench.say(f"{claim.name}: could not be measured: {error}")
        return error
    bench.say(f"{claim.name}: measured after {time.monotonic() - begun:.0f} s")
    return found


def _failed(claim: Claim, error: MeasuringFailed) -> Row:
    return Row(claim.name, None, "", None, None, f"could not be measured: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(CLAIMS)}; all when none is named"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="tiny models, under ten minutes on two cores")
    size.add_argument(
        "--full", action="store_true", help="larger models and more seeds, about an hour; the default"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help=f"where results are kept (default {OUTPUT})"
    )
    parser.add_argument(
        "--docs",
        type=Path,
        help=f"keep what was measured there and write claims.md and its plots again ({DOCS} for a full run of all claims)",
    )
    parser.add_argument(
        "--device-model",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a device measured elsewhere, for placement; may be repeated",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a public trace of requests, or rates, for billing and autoscaling; generated ones by default; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
