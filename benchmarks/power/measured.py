"""Rows of what was measured for real: no-ops that pass, the size of the noise, known gains found and paid."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from benchmarks.power.intervals import at_most, binomial_lower, binomial_upper
from benchmarks.power.record import MeasuredRun, Record
from benchmarks.power.resample import resample_rows
from benchmarks.report import Row
from benchmarks.statistics.diagnostics import diagnose
from benchmarks.statistics.median import lower_bound_rank, median, standard_deviation

FALSE_TARGET = 0.001
FOUND_TARGETS = ((0.045, 0.95), (0.018, 0.80))  # from a true effect of so much on
TWO_SIDED = Fraction(1, 40)


def measured_rows(record: Record) -> list[Row]:
    """All rows of a record, whatever there is of it."""
    rows = [*_no_op_rows(record), *_calibration_rows(record)]
    for columns in sorted({run.columns for run in record.of("gain")}):
        rows.extend(_gain_rows(record, columns))
    return rows


def _no_op_rows(record: Record) -> Iterator[Row]:
    if gates := record.of("no-op", "gate"):
        yield from _no_op_gates(gates, f"{record.suite}/{record.preset}")
    if records := record.of("no-op", "confirmation"):
        yield _no_op_bounds(records)
        if runs := [run.log_ratios for run in records if run.log_ratios]:
            yield from _no_op_noise(runs)
            yield from resample_rows(runs)


def _no_op_gates(gates: Sequence[MeasuredRun], where: str) -> Iterator[Row]:
    passed = sum(run.verdict == "gain" for run in gates)
    yield Row(
        "rebuilt no-op patches that pass the gate",
        passed,
        f"of {len(gates)}",
        f"rate <= {FALSE_TARGET}",
        at_most(passed, len(gates), FALSE_TARGET),
        f"real gates of {where}; upper 95 % bound of the rate {binomial_upper(passed, len(gates)):.3g}",
    )
    pairs = [run.pairs for run in gates]
    seconds = [run.wall_ns / 1e9 for run in gates]
    how = f"median of {len(gates)} gates; at most {max(pairs)} pairs; {median(seconds):.0f} s, at most {max(seconds):.0f} s"
    yield Row("pairs of a no-op's gate", median(pairs), "pairs", "<= 24", median(pairs) <= 24, how)


def _no_op_bounds(records: Sequence[MeasuredRun]) -> Row:
    confirmed = sum(run.verdict == "gain" for run in records)
    return Row(
        "no-op records whose 95 % bound is above zero",
        confirmed,
        f"of {len(records)}",
        "rate <= 0.05",
        binomial_lower(confirmed, len(records)) <= 0.05,
        f"fixed number of pairs; upper 95 % bound of the rate {binomial_upper(confirmed, len(records)):.3g}",
    )


def _no_op_noise(runs: Sequence[Sequence[float]]) -> Iterator[Row]:
    """Noise within each run and from run to run, and the remarks. `runs` holds log ratios in nats."""
    deviations = [standard_deviation(run) for run in runs]
    yield Row(
        "noise per pair of rebuilt no-ops",
        100 * median(deviations),
        "%",
        "<= 2 %",
        median(deviations) <= 0.02,
        f"standard deviation within a run, median of {len(runs)}; from {100 * min(deviations):.2f} to "
        f"{100 * max(deviations):.2f} %",
    )
    middles = [median(run) for run in runs]
    yield Row(
        "spread of no-ops' medians",
        100 * standard_deviation(middles),
        "%",
        None,
        None,
        f"{len(middles)} rebuilds, from {100 * min(middles):+.2f} to {100 * max(middles):+.2f} %: what a build is worth "
        "by luck, and chance",
    )
    notable = [word for run in runs for word in diagnose(run).words]
    yield Row(
        "remarks of the diagnostics",
        len(notable),
        f"in {len(runs)} records",
        None,
        None,
        " ".join(notable[:3]) or "none",
    )


def _calibration_rows(record: Record) -> Iterator[Row]:
    for run in record.of("calibration"):
        if run.log_ratios:
            yield Row(
                "cost of redundant work, for calibration",
                100 * math.expm1(median(run.log_ratios)),
                "%",
                None,
                None,
                f"{run.columns} columns; {_interval(run.log_ratios)}; {len(run.log_ratios)} pairs",
            )


def _gain_rows(record: Record, columns: int) -> Iterator[Row]:
    runs = record.of("gain", columns=columns)
    gates, confirmations = record.of("gain", "gate", columns), record.of("gain", "confirmation", columns)
    pairs = [value for run in runs for value in run.log_ratios]
    if not gates or not pairs:
        return
    truth = _best_estimate(confirmations, pairs)
    name = f"a known gain ({columns} columns less)"
    yield Row(
        f"{name}: its size",
        100 * math.expm1(truth),
        "%",
        None,
        None,
        f"median of {len(pairs)} pairs of {len(runs)} runs; {_interval(pairs)}",
    )
    found = sum(run.verdict == "gain" for run in gates)
    target = next((least for size, least in FOUND_TARGETS if truth >= size), None)
    yield Row(
        f"{name}: found",
        found / len(gates),
        "",
        None if target is None else f">= {target}",
        None if target is None else binomial_upper(found, len(gates)) >= target,
        f"{found} of {len(gates)} gates, median {median([run.pairs for run in gates]):.0f} pairs",
    )
    if confirmations and truth > 0:
        paid = sum(max(0, run.bound_log_ppm or 0) for run in confirmations) / 1e6
        share = paid / len(confirmations) / truth
        over = sum((run.bound_log_ppm or 0) / 1e6 > truth for run in confirmations)
        yield Row(
            f"{name}: share paid",
            share * found / len(gates),
            "",
            "<= 1",
            share * found / len(gates) <= 1,
            f"{share:.0%} once found; the bound was above the size in {over} of {len(confirmations)} confirmations",
        )


def _best_estimate(confirmations: Sequence[MeasuredRun], pairs: Sequence[float]) -> float:
    """The gain's size: gates stop at lucky moments, so confirmations alone where there are any."""
    fixed = [value for run in confirmations for value in run.log_ratios]
    return median(fixed or pairs)


def _interval(values: Sequence[float]) -> str:
    """The exact 95 % interval of the median from order statistics, in per cent faster."""
    rank = lower_bound_rank(len(values), TWO_SIDED)
    if rank is None:
        return "too few pairs for an interval"
    ordered = sorted(values)
    low, high = ordered[rank - 1], ordered[len(values) - rank]
    return f"95 % interval {100 * math.expm1(low):.2f} to {100 * math.expm1(high):.2f} %"
