"""The picture of a training run, drawn from its log. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.training.report.line_chart import Line, Panel, draw
from model.training.report.log import read_log


def draw_run(log: Path, name: str) -> str | None:
    """The SVG text of loss, speed, learning rate and expert load against tokens; None where no step is logged."""
    steps = [row for row in read_log(log, "stepped") if _is_number(row["loss"])]
    if not steps:
        return None
    held_out = read_log(log, "evaluated")
    plain = [row for row in held_out if not row["is_average"]]
    averaged = [row for row in held_out if row["is_average"]]
    loss = [
        _line("training", steps, "loss"),
        _line("held out", plain, "loss", has_markers=True),
        _line("held out, averaged weights", averaged, "loss", has_markers=True),
    ]
    panels = [
        Panel("Loss, nats per target", [line for line in loss if line.xs]),
        Panel("Tokens per second", [_line("speed", steps, "tokens_per_s")], is_from_zero=True),
        Panel("Learning rate", [_line("rate", steps, "learning_rate")], is_from_zero=True),
        *_metric_panels(steps),
    ]
    title = f"{name}: {steps[-1]['step']:,} steps, {steps[-1]['tokens']:,} tokens"
    return draw(title, panels, x_name="tokens", marks=_stages(steps))


def _line(name: str, rows: Sequence[dict[str, Any]], key: str, *, has_markers: bool = False) -> Line:
    """`key` over tokens, where it is a number: others are words in the log."""
    rows = [row for row in rows if _is_number(row.get(key))]
    return Line(name, [row["tokens"] for row in rows], [row[key] for row in rows], has_markers=has_markers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _metric_panels(steps: Sequence[dict[str, Any]]) -> list[Panel]:
    name = "max_over_mean_load"
    line = _line(name, [row["metrics"] | {"tokens": row["tokens"]} for row in steps], name)
    if not line.xs:
        return []
    return [Panel("Busiest expert's load over the mean", [line], is_from_zero=True)]


def _stages(steps: Sequence[dict[str, Any]]) -> list[tuple[float, str]]:
    """Where a curriculum's stages begin, the first one excepted."""
    marks, stage = [], steps[0]["stage"]
    for row in steps:
        if row["stage"] != stage:
            stage = row["stage"]
            marks.append((row["tokens"], str(stage)))
    return marks
