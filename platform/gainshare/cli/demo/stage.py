"""What every part of the demo works with: the site, its people, and the record."""

from dataclasses import dataclass, field
from pathlib import Path

from gainshare.cli.client import Site
from gainshare.cli.demo.people import Person
from gainshare.cli.demo.record import Record
from gainshare.cli.demo.watching import Progress


@dataclass
class Stage:
    """Context of the scenario: site, users, and record."""

    url: str
    admin: Site
    examples: Path
    evidence_dir: Path
    model: str
    record: Record
    progress: Progress
    people: dict[str, Person] = field(default_factory=dict)
