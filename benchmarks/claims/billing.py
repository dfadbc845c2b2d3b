"""Users' cost against flat per-token pricing: traces billed by the real price functions, in a process of their own.

The baseline has the same list prices for every token, without a discount for cached input or for the time of day. Without
traces given to the command, the product's own generator makes them; a test compares its statistics with published traces.
A file of rates among the traces gives the hours of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Claim, Measured
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.replay import measure as replayed
from benchmarks.report import MeasuringFailed, Row

RATES_HEADER = "t_s,"
KEPT = ("users' cost", "part of", "without subsidies", "discount of", "reusable prompt tokens")


def measure(bench: Bench, scale: Scale) -> Measured:
    traces, rates = split(bench.traces)
    rows = replayed(traces, rates=rates, quick=scale == "quick")
    return Measured(decide(rows, scale))


def split(files: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Traces, and the file of rates if there is one. Raises MeasuringFailed for a file that cannot be read."""
    traces: list[Path] = []
    rates: Path | None = None
    for file in files:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                is_rates = lines.readline(len(RATES_HEADER)) == RATES_HEADER
        except OSError as error:
            raise MeasuringFailed(f"{file} cannot be read: {error.strerror}") from None
        if is_rates:
            rates = file
        else:
            traces.append(file)
    return traces, rates


def decide(rows: Sequence[Row], scale: Scale) -> list[Row]:
    """The rows about cost; those about the traces themselves are left to `python -m benchmarks.replay`."""
    kept = [row for row in rows if any(word in row.name for word in KEPT)]
    return [replace(row, how=f"{row.how}; {SAYS[scale]}") for row in kept]


CLAIM = Claim(
    "billing",
    "Users pay 35 % less than with a flat price for each token, where prompts share prefixes",
    measure,
)
