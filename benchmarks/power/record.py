"""Record of real measurements: one JSON file that grows run by run, so that an interruption loses one run at most."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "gainshare.power.real/1"


class RecordError(ValueError):
    """A file is not a record of measured pairs. The message says why."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One run of the judge. `what` is no-op, calibration or gain; values in nats, times in nanoseconds."""

    what: str
    kind: str
    verdict: str
    pairs: int
    bound_log_ppm: int | None
    log_ratios: tuple[float, ...]
    wall_ns: int
    columns: int = 0  # of redundant work in the base tree


@dataclass(slots=True)
class Record:
    """All runs so far on one suite and preset."""

    suite: str
    preset: str
    runs: list[MeasuredRun] = field(default_factory=list)

    def of(self, what: str, kind: str | None = None, columns: int | None = None) -> list[MeasuredRun]:
        """Its runs of one sort, in the order measured."""
        return [
            run
            for run in self.runs
            if run.what == what
            and (kind is None or run.kind == kind)
            and (columns is None or run.columns == columns)
        ]

    def save(self, path: Path) -> None:
        """Write all of it, at once or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "schema": SCHEMA,
            "suite": self.suite,
            "preset": self.preset,
            "runs": [asdict(run) for run in self.runs],
        }
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Raises RecordError where it is something else, OSError where it cannot be read."""
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            if document["schema"] != SCHEMA:
                raise RecordError(f"{path} has the schema {document['schema']}, not {SCHEMA}.")
            runs = [
                MeasuredRun(**{**run, "log_ratios": tuple(map(float, run["log_ratios"]))})
                for run in document["runs"]
            ]
            return cls(document["suite"], document["preset"], runs)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise RecordError(f"{path} holds no record of measured pairs ({error!r}).") from error
