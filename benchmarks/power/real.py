"""`python -m benchmarks.power real`: the judge on this machine, on rebuilt no-ops and on small gains of known size.

Rounds of runs until `--runs` or `--minutes` is reached or Ctrl-C: a gate and a record of 30 pairs of a no-op that is
rebuilt each time, and for each size of gain a gate and, where it passes, a confirmation. A gain is made by giving the
*base* a matrix product that no one reads; what such a product costs is measured first. Every run is written to a file
at once; `--resample FILE` prints the table of an earlier one. Needs a quiet machine for figures that mean something.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import Terminal, measure
from benchmarks.commands import check_output, command_line
from benchmarks.evidence.samples import PPB_PER_PPM, read_samples
from benchmarks.power.measured import measured_rows
from benchmarks.power.record import MeasuredRun, Record, RecordError
from benchmarks.power.variants import no_op_folder, shipped_folder, slower_folder
from benchmarks.report import MeasuringFailed, Report, say
from benchmarks.sandbox import SandboxError
from benchmarks.statistics.confirm import CONFIRMATION_PAIRS, LEAST_PAIRS
from benchmarks.statistics.median import median
from benchmarks.suites import UnknownSuite, get_suite
from benchmarks.judging.verdicts import VerdictKind
from model.command_errors import CommandParser

GAINS = (0.02, 0.05)
CALIBRATION_COLUMNS = (1_024, 4_096, 16_384)  # the first whose cost is measurable
LEAST_COST_LOG = 0.05
TRIES = 3
RECORD = Path(".gainshare/power-real.json")

Judge = Callable[..., dict[str, Any]]


class Quietly(Terminal):
    """A judge that says nothing while it works: one line a run is enough."""

    def on_commitment(self, commitment: str) -> None:
        pass

    def on_log(self, text: str) -> None:
        pass


@dataclass
class Measuring:
    """Runs the judge and keeps what it finds. `judge` is `benchmarks.bench.measure` but for tests."""

    record: Record
    path: Path
    folder: Path
    judge: Judge = measure
    deadline: float = float("inf")  # time.monotonic()
    confirmation_pairs: int = CONFIRMATION_PAIRS

    def run(self, what: str, kind: str, base: Path, candidate: Path, columns: int = 0) -> MeasuredRun:
        """One run, recorded and printed. What failed because of the machine is measured again, and not recorded.

        Raises MeasuringFailed when that happens so often that it will not stop.
        """
        reasons = []
        for _ in range(TRIES):
            run, reason = self._judged(what, kind, base, candidate, columns)
            if run.verdict != VerdictKind.INFRASTRUCTURE_ERROR:
                self.record.runs.append(run)
                self.record.save(self.path)
                return run
            reasons.append(reason)
        raise MeasuringFailed(
            f"{TRIES} runs in a row failed because of the machine, the last one so: {reasons[-1]}"
        )

    def _judged(
        self, what: str, kind: str, base: Path, candidate: Path, columns: int
    ) -> tuple[MeasuredRun, str]:
        started = time.monotonic_ns()
        plan = {"confirmation_pairs": self.confirmation_pairs} if kind == "confirmation" else {}
        sealed = self.judge(
            kind=kind,
            suite=self.record.suite,
            preset=self.record.preset,
            base=str(base),
            candidate=str(candidate),
            callbacks=Quietly(),
            **plan,
        )
        document = sealed["document"]
        verdict = document["verdict"]
        cap = document["suite"]["policy"]["cap_log_ppm"] * PPB_PER_PPM
        run = MeasuredRun(
            what=what,
            kind=kind,
            verdict=verdict["kind"],
            pairs=verdict["pairs"],
            bound_log_ppm=verdict["log_ppm_bound"],
            log_ratios=tuple(read_samples(document).units(cap)),
            wall_ns=time.monotonic_ns() - started,
            columns=columns,
        )
        middle = f"median {100 * median(run.log_ratios):+.2f} %" if run.log_ratios else verdict["reason"]
        say(f"{what} {kind}: {run.verdict} after {run.pairs} pairs, {middle}, {run.wall_ns / 1e9:.0f} s")
        return run, verdict["reason"]

    def no_ops(self, most: int) -> Iterator[None]:
        """Gates of rebuilt no-ops, until the record has so many; yields after every run."""
        shipped = shipped_folder(self.folder)
        for number in range(len(self.record.of("no-op", "gate")), most):
            say(f"no-op {number + 1} of {most}")
            self.run("no-op", "gate", shipped, no_op_folder(self.folder, number))
            yield

    def rounds(self, most: int) -> Iterator[None]:
        """Calibrate, then take rounds; yields after every run, so that the caller can stop."""
        shipped = shipped_folder(self.folder)
        for columns in CALIBRATION_COLUMNS:
            slow = slower_folder(self.folder, columns)
            calibration = self.run("calibration", "confirmation", slow, shipped, columns)
            yield
            if calibration.log_ratios and median(calibration.log_ratios) >= LEAST_COST_LOG:
                break
        sizes = {gain: columns_for(gain, calibration) for gain in GAINS}
        bases = {columns: slower_folder(self.folder, columns) for columns in sorted(set(sizes.values()))}
        done = len(self.record.of("no-op", "gate"))  # a no-op that was measured before is not taken again
        for number in range(done, done + most):
            say(f"round {number - done + 1} of {most}")
            no_op = no_op_folder(self.folder, number)
            for kind in ("gate", "confirmation"):
                self.run("no-op", kind, shipped, no_op)
                yield
            for columns, base in bases.items():
                gate = self.run("gain", "gate", base, shipped, columns)
                yield
                if gate.verdict == "gain":
                    self.run("gain", "confirmation", base, shipped, columns)
                    yield

    def until_done(self, runs: Iterator[None]) -> None:
        """All of `runs`, or as many as the deadline and the person at the keyboard allow."""
        try:
            for _ in runs:
                if time.monotonic() >= self.deadline:
                    say("the time is up")
                    return
        except KeyboardInterrupt:
            say("interrupted: what was measured so far")
        except MeasuringFailed as failure:
            say(f"stopped: {failure}")


def columns_for(gain: float, calibration: MeasuredRun) -> int:
    """Columns of redundant work worth a gain of `gain`, if costs are proportional to those of the calibration.

    Raises ValueError where the calibration saw no measurable cost.
    """
    cost = median(calibration.log_ratios) if calibration.log_ratios else 0.0
    if cost < LEAST_COST_LOG:
        raise ValueError(
            f"{calibration.columns} more columns cost only {100 * cost:.1f} %: take a quieter machine or a larger preset"
        )
    return max(1, round(calibration.columns * math.log1p(gain) / cost))


def main(arguments: list[str] | None = None) -> int:
    """0 when something was measured, 2 when this machine does not allow it."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.no_ops < 0:
        parser.error("--no-ops is not below zero")
    if chosen.runs < 1 or not chosen.minutes > 0 or chosen.pairs < LEAST_PAIRS:
        parser.error(f"--runs and --minutes are above zero, --pairs at least {LEAST_PAIRS}")
    try:
        if not chosen.resample:
            chosen.record.parent.mkdir(parents=True, exist_ok=True)
            check_output(chosen.record)
        record = Record.load(chosen.resample) if chosen.resample else _measure(chosen)
    except (RecordError, UnknownSuite, SandboxError, ValueError, OSError) as error:
        say(f"power real: {error}")
        return 2
    if not record.runs:
        say("power real: stopped before the first run ended: nothing was measured")
        return 2
    rows = measured_rows(record)
    Report.here(command_line(parser.prog, arguments), rows).show(as_json=chosen.json)
    return 0


def _measure(chosen: argparse.Namespace) -> Record:
    get_suite(chosen.suite, chosen.preset)  # a wrong name is said before anything is waited for
    record = record_to_continue(chosen.record, chosen.suite, chosen.preset)
    with tempfile.TemporaryDirectory(prefix="gainshare-power-") as folder:
        measuring = Measuring(
            record,
            chosen.record,
            Path(folder),
            deadline=time.monotonic() + 60 * chosen.minutes,
            confirmation_pairs=chosen.pairs,
        )
        measuring.until_done(
            measuring.no_ops(chosen.no_ops) if chosen.no_ops else measuring.rounds(chosen.runs)
        )
    return record


def record_to_continue(path: Path, suite: str, preset: str) -> Record:
    """The record in the file, or a new one. Raises RecordError for one of another suite or preset."""
    if not path.exists():
        return Record(suite, preset)
    record = Record.load(path)
    if (record.suite, record.preset) != (suite, preset):
        raise RecordError(
            f"{path} is the record of {record.suite}/{record.preset}. Name another file with --record, or remove it."
        )
    say(f"continues the record in {path}: {len(record.runs)} runs")
    return record


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.power real", description=__doc__)
    parser.add_argument("--suite", default="moe_forward")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--runs", type=int, default=10, help="rounds; one takes four to six minutes")
    parser.add_argument(
        "--no-ops", type=int, default=0, help="take gates of no-ops alone, until the record has so many"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="start no run after so many")
    parser.add_argument("--pairs", type=int, default=CONFIRMATION_PAIRS, help="of a record or confirmation")
    parser.add_argument(
        "--record", type=Path, default=RECORD, help="file that grows run by run; one that exists is continued"
    )
    parser.add_argument("--resample", type=Path, help="print the table of this file instead of measuring")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser
