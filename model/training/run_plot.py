"""The picture of a training run, drawn from its log. Knows nothing of how the log came about; does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.training.line_chart import Line, Panel, draw
from model.training.run_log import read_log


def draw_run(log: Path, name: str) -> str | None:
    """The SVG text of loss, speed, learning rate and expert load against tokens; None where no step is logged."""
    steps = [row for row in read_log(log, "stepped") if not isinstance(row["loss"], str)]
    if not steps:
        return None
    tokens = [row["tokens"] for row in steps]
    held_out = read_log(log, "evaluated")
    plain = [row for row in held_out if not row["is_average"]]
    averaged = [row for row in held_out if row["is_average"]]
    loss = [
        Line("training", tokens, [row["loss"] for row in steps]),
        Line("held out", [row["tokens"] for row in plain], [row["loss"] for row in plain], has_markers=True),
        Line(
            "held out, averaged weights",
            [row["tokens"] for row in averaged],
            [row["loss"] for row in averaged],
            has_markers=True,
        ),
    ]
    panels = [
        Panel("Loss, nats per target", [line for line in loss if line.xs]),
        Panel(
            "Tokens per second",
            [Line("speed", tokens, [row["tokens_per_s"] for row in steps])],
            is_from_zero=True,
        ),
        Panel(
            "Learning rate",
            [Line("rate", tokens, [row["learning_rate"] for row in steps])],
            is_from_zero=True,
        ),
        *_metric_panels(steps, tokens),
    ]
    title = f"{name}: {steps[-1]['step']:,} steps, {tokens[-1]:,} tokens"
    return draw(title, panels, x_name="tokens", marks=_stages(steps))


def _metric_panels(steps: Sequence[dict[str, Any]], tokens: Sequence[float]) -> list[Panel]:
    name = "max_over_mean_load"
    points = [
        (x, row["metrics"][name]) for x, row in zip(tokens, steps, strict=True) if name in row["metrics"]
    ]
    if not points:
        return []
    line = Line(name, [x for x, _ in points], [y for _, y in points])
    return [Panel("Busiest expert's load over the mean", [line], is_from_zero=True)]


def _stages(steps: Sequence[dict[str, Any]]) -> list[tuple[float, str]]:
    """Where a curriculum's stages begin, the first one excepted."""
    marks, stage = [], steps[0]["stage"]
    for row in steps:
        if row["stage"] != stage:
            stage = row["stage"]
            marks.append((row["tokens"], str(stage)))
    return marks
