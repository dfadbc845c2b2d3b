"""Record of each claim's measurement, in the folder of the page that shows it: date, machine, commit, scale.

Claims are measured one by one and at different times: a new measurement takes the place of an older one of the same
claim and scale, and of nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.claim import Curve, Figure, Measured
from benchmarks.claims.scale import Scale
from benchmarks.report import Report, Row

SCALES: tuple[Scale, ...] = ("full", "quick")  # the first that was measured is shown


@dataclass(frozen=True)
class Entry:
    """One claim's rows and plots, and what they belong to. `has_changed`: the code did while they were measured."""

    scale: Scale
    command: str
    date: str
    commit: str | None
    machine: str
    measured: Measured
    has_changed: bool = False

    @classmethod
    def of(cls, report: Report, measured: Measured, *, scale: Scale, has_changed: bool) -> Entry:
        return cls(scale, report.command, report.date, report.commit, report.machine, measured, has_changed)


class RecordError(Exception):
    """The file of earlier measurements cannot be read; the message says what to do."""


def read_record(file: Path) -> dict[str, dict[Scale, Entry]]:
    """Entries by claim and scale; none where there is no file. Raises RecordError for a damaged one."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return {
            claim: {scale: _entry(of_scale[scale]) for scale in SCALES if scale in of_scale}
            for claim, of_scale in document.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{file} is damaged ({error}): restore it, or delete it and measure all claims"
        ) from error


def write_record(file: Path, record: Mapping[str, Mapping[Scale, Entry]]) -> None:
    """Write the record, whole or not at all. Raises OSError."""
    document = {
        claim: {scale: asdict(entry) for scale, entry in of_scale.items()}
        for claim, of_scale in record.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)


def shown(of_scale: Mapping[Scale, Entry]) -> Entry | None:
    """The full measurement where there is one."""
    return next((of_scale[scale] for scale in SCALES if scale in of_scale), None)


def _entry(values: Mapping[str, Any]) -> Entry:
    rows = tuple(Row(**row) for row in values["measured"]["rows"])
    figures = tuple(
        Figure(**{**figure, "curves": tuple(Curve(**curve) for curve in figure["curves"])})
        for figure in values["measured"]["figures"]
    )
    return Entry(**{**values, "measured": Measured(rows, figures)})
