"""A run's log: one JSON object per line and event, appended and flushed, readable during the run.

A resumed run continues the same file: lines of steps that are trained again are cut off first, so that each
step is logged once. Does not import torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.training.report.events import Event


class RunLog:
    """An observer that writes `file`. `step` is the number of steps already done."""

    def __init__(self, file: Path, *, step: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        cut_behind(file, step)
        self._opened = file.open("a", encoding="utf-8")

    def on(self, event: Event) -> None:
        row = {"event": type(event).__name__.lower(), "at": datetime.now(UTC).isoformat(), **asdict(event)}
        self._opened.write(json.dumps(_plain(row)) + "\n")
        self._opened.flush()

    def close(self) -> None:
        self._opened.close()


def cut_behind(file: Path, step: int) -> None:
    """Remove what was logged after `step` in one atomic replacement; a torn last line is removed too."""
    if not file.exists():
        return
    kept = [line for line, row in _lines(file) if row is not None and row.get("step", 0) <= step]
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(file)


def read_log(file: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The rows of a log, of one kind of event if `event` names it ("stepped", "evaluated" ...)."""
    rows = [row for _, row in _lines(file) if row is not None]
    return rows if event is None else [row for row in rows if row["event"] == event]


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield each line with its row; None for an incomplete one of a killed process."""
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield line, row if isinstance(row, dict) and line.endswith("\n") else None


def _plain(value: Any) -> Any:
    """Convert paths and non-finite numbers, which JSON does not have, to text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
