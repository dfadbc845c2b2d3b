"""The one shape of all figures: rows with value, unit, target and how they were measured; a table or one JSON document.

`{"command", "date", "commit", "machine", "rows": [{"name", "value", "unit", "target", "holds", "how"}]}`. A command
exits 0 whenever measuring worked: a missed target is a figure, not a failure.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.runner.fingerprint import cpu_name
from model import kernel_ways

FILE_WIDTH = 180  # of a table that goes into a file or a log


def say(text: str) -> None:
    """Print one line of progress to standard error, at once."""
    print(text, file=sys.stderr, flush=True)


class MeasuringFailed(RuntimeError):
    """A figure could not be measured. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `target` is in words; `holds` is None where there is no target or too little was measured."""

    name: str
    value: float | int | str | bool | None
    unit: str
    target: str | None
    holds: bool | None
    how: str

    @property
    def figure(self) -> str:
        """Value and unit for people."""
        return shown(self.value) if self.value is None else f"{shown(self.value)} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of one command on one machine.

    `commit` is None outside a git clone, and ends with `-dirty` where tracked files differed from it.
    """

    command: str
    date: str
    commit: str | None
    machine: str
    rows: tuple[Row, ...]

    @classmethod
    def here(cls, command: str, rows: Iterable[Row]) -> "Report":
        """A report of `rows`, made now, on this machine."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(command, date, current_commit(), machine_name(), tuple(rows))

    def to_json(self) -> str:
        """The JSON document, indented, without a final newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def show(self, *, as_json: bool) -> None:
        """Print to standard output: the JSON document, or a table for people."""
        if as_json:
            sys.stdout.write(self.to_json() + "\n")
            return
        table = Table(box=box.SIMPLE_HEAD, title=self.command, title_justify="left", caption_justify="left")
        table.caption = f"{self.date} · commit {short(self.commit)} · {self.machine}"
        for heading in ("figure", "value", "target", "holds", "how"):
            table.add_column(heading, overflow="fold", justify="right" if heading == "value" else "left")
        for row in self.rows:
            table.add_row(row.name, row.figure, row.target or "", _mark(row), row.how)
        console = Console()
        if not console.is_terminal:
            console.width = FILE_WIDTH
        console.print(table)


def shown(value: float | int | str | bool | None) -> str:
    """A value for people: at most four significant digits behind the point."""
    if value is None:
        return "-"
    if isinstance(value, float) and abs(value) < 10_000:
        return f"{value + 0.0:.4g}"  # a zero has no sign
    return str(value)


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and quartiles of at least two times, in ms."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{middle * 1e3:.3g} ms ({low * 1e3:.3g} .. {high * 1e3:.3g})"


def _mark(row: Row) -> str:
    if row.holds is None:
        return ""
    return "[green]yes[/green]" if row.holds else "[red]no[/red]"


def machine_name() -> str:
    """Processor, how it multiplies, cores and memory in one line."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu_name()}{_products()}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _products() -> str:
    """What the processor was measured to multiply; nothing where its kernels were never built."""
    rates = kernel_ways.measured(kernel_ways.kernels_folder())
    try:
        return "" if rates is None else f" ({kernel_ways.bf16_text_of(rates)})"
    except kernel_ways.KernelWaysError as error:  # the figures are measured: they are printed
        return f" ({error})"


def short(commit: str | None) -> str:
    """A report's commit for people."""
    if commit is None:
        return "none"
    name, dash, mark = commit.partition("-")
    return name[:12] + dash + mark


def current_commit() -> str | None:
    """The commit of the checkout that this file is in, or None (an archive, no git).

    It ends with `-dirty` where tracked files differ from it: the figures are then not that commit's.
    """
    git = shutil.which("git")
    if git is None:
        return None
    folder = Path(__file__).resolve().parent
    done = subprocess.run(
        [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    return done.stdout.strip() or None if done.returncode == 0 else None
