"""Rates by time, as ServeGen publishes them for large services, and traces that are drawn from them.

Format: CSV with the columns ``t_s,rate``: seconds since the start, in equal steps, and requests per second.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from gainshare.capacity.traces.arrivals import Rates, arrivals
from gainshare.capacity.traces.lines import Line, TraceFile
from gainshare.capacity.traces.requests import Trace, TraceRequest

HEADER = "t_s,rate"
SHAPE = f"The columns are {HEADER}: seconds since the start, in equal steps, and requests per second"
MAX_RATE = 1e9


def is_rates(file: TraceFile) -> bool:
    return file.lines[0].text == HEADER


def parse_rates(file: TraceFile) -> Rates:
    """Raises TraceError at the first line that is no rate or not one step after the line before."""
    if not is_rates(file):
        raise file.error(file.lines[0], "the header is not that of a file of rates", SHAPE)
    rows = [(line, *_row(file, line)) for line in file.lines[1:]]
    if len(rows) < 2:
        raise file.error(file.lines[-1], "two rates or more are needed", SHAPE)
    start = rows[0][1]
    step = rows[1][1] - start
    for index, (line, at, _) in enumerate(rows):
        if step <= 0 or abs(at - start - index * step) > step / 1000:
            raise file.error(line, f"this time is not {step:g} s after the line before", SHAPE)
    rates = tuple(rate for _, _, rate in rows)
    if not any(rates):
        raise file.error(file.lines[-1], "all rates are 0", "Give at least one positive rate")
    return Rates(step, rates)


def _row(file: TraceFile, line: Line) -> tuple[float, float]:
    fields = line.text.split(",")
    if len(fields) != 2:
        if line is file.lines[-1] and not line.has_end:
            raise file.error(line, "the last line is cut off", "Copy the file again, or remove that line")
        raise file.error(line, f"2 fields are needed, {len(fields)} are given", SHAPE)
    return _number(file, line, fields[0], "t_s", 1e10), _number(file, line, fields[1], "rate", MAX_RATE)


def _number(file: TraceFile, line: Line, text: str, name: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise file.error(line, f"{name} is not a number from 0 to {most:g}", SHAPE)
    return value


@dataclass(frozen=True, slots=True)
class DrawnTrace:
    """Arrivals drawn from rates, lengths drawn from another trace. Each iteration gives the same requests.

    A trace without prefixes gives its lengths in a random order, with repetition. Of one with prefixes the requests are
    taken in their order, so that they share as much as there; each further round has blocks that no other round has.
    """

    name: str
    rates: Rates
    lengths: Trace
    seed: int
    cv: float

    @property
    def block_tokens(self) -> int:
        return self.lengths.block_tokens

    @property
    def digest(self) -> str:
        drawn = repr((self.rates.step_s, self.rates.rates, self.lengths.digest, self.seed, self.cv))
        return hashlib.sha256(drawn.encode()).hexdigest()

    def __iter__(self) -> Iterator[TraceRequest]:
        times = arrivals(self.rates, random=Random(f"{self.seed}:arrivals"), cv=self.cv)
        bodies = self._in_order() if self.block_tokens else self._at_random()
        for at, body in zip(times, bodies, strict=False):
            yield TraceRequest(at, body.prompt_tokens, body.output_tokens, body.blocks, body.account)

    def _at_random(self) -> Iterator[TraceRequest]:
        bodies = tuple(self.lengths)
        random = Random(f"{self.seed}:lengths")
        while bodies:
            yield bodies[int(random.random() * len(bodies))]

    def _in_order(self) -> Iterator[TraceRequest]:
        bodies = tuple(self.lengths)
        low = min((min(body.blocks) for body in bodies if body.blocks), default=0)
        high = max((max(body.blocks) for body in bodies if body.blocks), default=0)
        shift = 0
        while bodies:
            for body in bodies:
                blocks = tuple(block + shift for block in body.blocks)
                yield TraceRequest(body.at_s, body.prompt_tokens, body.output_tokens, blocks, body.account)
            shift += high - low + 1


def draw(
    rates: Rates,
    *,
    lengths: Trace,
    seed: int,
    requests: int | None = None,
    cv: float = 1.0,
    name: str = "rates",
) -> DrawnTrace:
    """A trace of about ``requests`` requests (default: as many as the rates say) by these rates."""
    scaled = rates if requests is None else rates.scaled(requests)
    return DrawnTrace(name, scaled, lengths, seed, cv)
