"""Record of the demo: steps with expected and actual outcome, printed as they end and saved as JSON.

Schema `gainshare.demo/1`, documented in docs/reference/demo.md.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

SCHEMA = "gainshare.demo/1"


@dataclass
class Step:
    """A step with its expected and actual outcome."""

    name: str
    expected: str
    actual: str = ""
    ok: bool = False
    seconds: float = 0.0


@dataclass
class Record:
    """Record of one demo. `save` writes it; `ok` decides the demo's exit status."""

    console: Console
    url: str = ""
    steps: list[Step] = field(default_factory=list)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    award: dict[str, Any] = field(default_factory=dict)
    deployment: dict[str, Any] = field(default_factory=dict)
    price: dict[str, Any] = field(default_factory=dict)
    chat: dict[str, Any] = field(default_factory=dict)
    audit: list[dict[str, Any]] = field(default_factory=list)
    evidence: list[dict[str, Any]] = field(default_factory=list)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    @contextmanager
    def step(self, name: str, expected: str) -> Iterator[Step]:
        """Time one step and print its outcome. A step that raises is recorded as failed."""
        step = Step(name, expected)
        self.steps.append(step)
        begun = time.monotonic()
        try:
            yield step
        except BaseException as error:
            step.ok, step.actual = False, step.actual or f"{type(error).__name__}: {error}"
            raise
        finally:
            step.seconds = round(time.monotonic() - begun, 3)
            self._print(step)

    def _print(self, step: Step) -> None:
        mark = "[green]ok  [/]" if step.ok else "[red]FAIL[/]"
        self.console.print(
            f"{mark} {escape(step.name)}: {escape(step.actual)} [dim]({step.seconds:.1f} s)[/]"
        )
        if not step.ok:
            self.console.print(f"     expected: {escape(step.expected)}")

    def as_json(self) -> dict[str, Any]:
        finished_at = datetime.now(UTC)
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "url": self.url,
            "started_at": self.started_at.isoformat(),
            "finished_at": finished_at.isoformat(),
            "seconds": round((finished_at - self.started_at).total_seconds(), 1),
            "steps": [asdict(step) for step in self.steps],
            "submissions": self.submissions,
            "award": self.award,
            "deployment": self.deployment,
            "price": self.price,
            "chat": self.chat,
            "audit": self.audit,
            "evidence": self.evidence,
        }

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.as_json(), indent=2) + "\n")
        partial.replace(path)
