"""What is wrong with a trace file."""

from __future__ import annotations

from pathlib import Path


class TraceError(Exception):
    """A trace cannot be read. The message names the file, the line where there is one, and what to do."""

    def __init__(self, path: Path, what: str, advice: str, *, line: int | None = None) -> None:
        where = f"{path}, line {line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {what}. {advice}")
        self.path = path
        self.line = line
