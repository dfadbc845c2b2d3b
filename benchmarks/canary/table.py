"""A canary's verdict as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.canary.results import CanaryVerdict, LineResult
from benchmarks.statistics.units import signed_percent

HEAD = ("line", "against", "at least", "median", "pairs")


def table(verdict: CanaryVerdict) -> str:
    """Lines of the candidate against the served tree and, where it is another one, the best; then times of a token and of a prompt."""
    rows: list[tuple[str, ...]] = [HEAD, *_rows("served", verdict.served)]
    if verdict.best != verdict.served:
        rows += _rows("best", verdict.best)
    parts = [_aligned(rows)]
    if verdict.batch_times:
        times: list[tuple[str, ...]] = [("answers at once", "candidate ms a token", "served ms a token")]
        times += [(str(one.batch), _ms(one.candidate_ns), _ms(one.served_ns)) for one in verdict.batch_times]
        parts.append(_aligned(times))
    if verdict.prefill_times:
        times = [("tokens of the prompt", "candidate ms", "served ms")]
        times += [
            (str(one.prompt_tokens), _ms(one.candidate_ns), _ms(one.served_ns))
            for one in verdict.prefill_times
        ]
        parts.append(_aligned(times))
    parts.append(f"{'passed' if verdict.passed else 'refused'}: {verdict.why}")
    return "\n\n".join(parts)


def _rows(against: str, lines: dict[str, LineResult]) -> Iterator[tuple[str, ...]]:
    for name, line in lines.items():
        yield (
            name,
            against,
            signed_percent(line.bound_log_ppm),
            signed_percent(line.estimate_log_ppm),
            str(line.pairs),
        )


def _ms(ns: int) -> str:
    return f"{ns // 1_000_000}.{ns % 1_000_000 // 1_000:03d}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
