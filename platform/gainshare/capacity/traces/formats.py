"""Read a trace file: Mooncake's JSON lines, Azure's CSV, or rates, of which requests are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from gainshare.capacity.traces.arrivals import Rates
from gainshare.capacity.traces.azure import is_azure, read_azure
from gainshare.capacity.traces.errors import TraceError
from gainshare.capacity.traces.generator import generate
from gainshare.capacity.traces.lines import TraceFile, read_lines
from gainshare.capacity.traces.mooncake import is_mooncake, read_mooncake
from gainshare.capacity.traces.rates import draw, is_rates, parse_rates
from gainshare.capacity.traces.requests import Trace

__all__ = ["Format", "TraceError", "read_rates", "read_trace"]

Format = Literal["auto", "mooncake", "azure", "rates"]
DRAWN_REQUESTS = 100_000
"""Requests drawn of a file of rates where no number is given."""


def read_trace(
    path: Path,
    *,
    format: Format = "auto",  # noqa: A002 - the name that a caller reads best
    seed: int = 0,
    requests: int = DRAWN_REQUESTS,
    cv: float = 1.0,
    lengths: Trace | None = None,
) -> Trace:
    """Read the trace in a file.

    The other options are for rates: about ``requests`` requests arrive by them, with gaps of that coefficient of
    variation, and their lengths are drawn from ``lengths`` (default: the generator). Raises TraceError.
    """
    file = read_lines(path)
    match _format(file, format):
        case "mooncake":
            return read_mooncake(file)
        case "azure":
            return read_azure(file)
        case _:
            rates = parse_rates(file)
            bodies = generate(seed=seed) if lengths is None else lengths
            return draw(rates, lengths=bodies, seed=seed, requests=requests, cv=cv, name=path.name)


def read_rates(path: Path) -> Rates:
    """Read a file of rates as it is. Raises TraceError."""
    return parse_rates(read_lines(path))


def _format(file: TraceFile, asked: str) -> str:
    if asked not in get_args(Format):
        raise ValueError(f"unknown format {asked}")
    if asked != "auto":
        return asked
    for name, matches in (("mooncake", is_mooncake), ("azure", is_azure), ("rates", is_rates)):
        if matches(file):
            return name
    raise file.error(
        file.lines[0],
        "this is none of the known formats",
        "Mooncake's JSON lines, Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens) and rates (t_s,rate) can be read",
    )
