"""The comparisons of this benchmark: which simulations it runs, and the label of each one's figures."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.capacity.simulated import simulated
from benchmarks.report import MeasuringFailed, Row, say

COLD_STARTS_S = (20, 120, 300)
REQUESTS = 1_000_000
BURSTY_CV = 2
DAY_S = 86_400
MEAN_TO_PEAK = 0.58  # of the day whose saving is compared with its bound
#: Devices for long prompts: on one core of a CPU a prompt of 60,000 tokens takes minutes.
LONG_SPEED = 30
SPOT = "spot,price=0.4,lifetime=24"


@dataclass(frozen=True)
class Traces:
    """Files that were given, by what they are; None: the product's generator takes their place."""

    rates: Path | None = None
    conversation: Path | None = None
    prefixes: Path | None = None

    @classmethod
    def of(cls, files: Sequence[Path]) -> Traces:
        """Tells the files apart by their first line. Raises MeasuringFailed."""
        found = cls()
        for file in files:
            try:
                with file.open(encoding="utf-8", errors="replace") as opened:
                    first = opened.readline().strip()
            except OSError as error:
                raise MeasuringFailed(f"{file} cannot be read: {error.strerror}") from error
            if first == "t_s,rate":
                found = replace(found, rates=file)
            elif first.startswith("{"):
                found = replace(found, prefixes=file)
            elif first.startswith("TIMESTAMP,"):
                found = replace(found, conversation=file)
            else:
                raise MeasuringFailed(
                    f"{file} is none of the known traces: rates (t_s,rate), Azure's CSV or Mooncake's JSON lines"
                )
        return found


@dataclass(frozen=True)
class Comparison:
    """One call of `gainshare simulate`; its rows' names begin with ``label``."""

    label: str
    arguments: tuple[str, ...]


def comparisons(traces: Traces, *, quick: bool) -> list[Comparison]:
    """All comparisons, the longest first."""
    colds = ("--cold-start", "120") if quick else _repeated("--cold-start", COLD_STARTS_S)
    tuned = () if quick else ("--tuned",)
    found = []
    for kind, lengths, classes in (
        ("conversations", traces.conversation, ()),
        ("long context", traces.prefixes, ("--class", f"standard,speed={LONG_SPEED}")),
    ):
        for name, cv in (("Poisson", 1), ("bursty", BURSTY_CV)):
            if quick and (kind, cv) != ("conversations", 1):
                continue
            source = _fortnight(traces, kind, lengths, quick=quick)
            found.append(Comparison(f"{kind}, {name}", (*source, "--cv", str(cv), *colds, *tuned, *classes)))
    source = _fortnight(traces, "conversations", traces.conversation, quick=quick)
    cheap = ("--class", "standard", "--class", SPOT, "--policy", "forecast", "--cold-start", "120")
    found.append(Comparison("conversations, with preemptible nodes at 40 % of the price", (*source, *cheap)))
    found += _day(traces, quick=quick)
    found.append(_routing(traces, quick=quick))
    return found


def _repeated(option: str, values: Sequence[int]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (option, str(value)))


def _fortnight(traces: Traces, kind: str, lengths: Path | None, *, quick: bool) -> tuple[str, ...]:
    """A million requests in two weeks; quick ones are a day of them."""
    workload = ("--workload", "conversation" if kind == "conversations" else "long-context")
    if traces.rates is None:
        return ("generated", *workload, "--days", "1" if quick else "14")
    part = ("--only-day", "0") if quick else ("--requests", str(REQUESTS))
    return (str(traces.rates), *part, *(("--lengths", str(lengths)) if lengths else workload))


def _day(traces: Traces, *, quick: bool) -> list[Comparison]:
    """The day whose mean is nearest to MEAN_TO_PEAK of its peak, with many nodes, and the bound."""
    requests = ("--requests", str(REQUESTS // 10 if quick else REQUESTS))
    rest = (*requests, "--cold-start", "20", "--class", "standard,max=256", *(() if quick else ("--tuned",)))
    if traces.rates is None:
        return [Comparison("a day", ("generated", "--days", "1", *rest))]
    day, share = nearest_day(traces.rates)
    lengths = ("--lengths", str(traces.conversation)) if traces.conversation else ()
    label = f"day {day}, mean/peak {share:.2f}"
    return [Comparison(label, (str(traces.rates), "--only-day", str(day), *lengths, *rest))]


def nearest_day(file: Path) -> tuple[int, float]:
    """Number of that day in a file of rates, and its mean over its peak. Raises MeasuringFailed."""
    try:
        with file.open(encoding="utf-8") as opened:
            rows = [(float(row["t_s"]), float(row["rate"])) for row in csv.DictReader(opened)]
        steps = round(DAY_S / (rows[1][0] - rows[0][0]))
    except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise MeasuringFailed(f"{file} holds no rates: {error}") from error
    shares = {}
    for day in range(len(rows) // steps):
        rates = [rate for _, rate in rows[day * steps : (day + 1) * steps]]
        shares[day] = sum(rates) / len(rates) / max(rates)
    if not shares:
        raise MeasuringFailed(f"{file} holds no whole day of rates")
    best = min(shares, key=lambda day: abs(shares[day] - MEAN_TO_PEAK))
    return best, shares[best]


def _routing(traces: Traces, *, quick: bool) -> Comparison:
    if traces.prefixes is not None:
        source: tuple[str, ...] = (str(traces.prefixes),)
    else:
        requests = "1000" if quick else "8000"
        source = ("generated", "--workload", "long-context", "--days", "0.02", "--requests", requests)
    return Comparison("routing", (*source, "--routing", "--class", f"standard,speed={LONG_SPEED}"))


def measure(chosen: Sequence[Comparison]) -> list[Row]:
    """Rows of all comparisons, in their order, several at once. Raises MeasuringFailed."""

    def run(one: Comparison) -> list[Row]:
        say(f"{one.label}: gainshare simulate {' '.join(one.arguments)}")
        rows = simulated(one.arguments)
        say(f"{one.label}: done")
        return [replace(row, name=f"{one.label}: {row.name}") for row in rows]

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return [row for rows in pool.map(run, chosen) for row in rows]
